"""Outages of the database: logged when the cause changes, and then at most every 30 seconds."""

import logging

from kernel.data.sqlstate import (
    UNAVAILABLE,
    UNREACHABLE,
    unavailability,
    unavailability_of_read,
    unavailable,
)
from kernel.database_urls import hosts_of
from kernel.driver_errors import PoolTimeout, ShareTimeout, driver_error, sqlstate
from kernel.errors import DatabaseUnavailable
from kernel.metrics import OUTAGE, REFUSALS
from kernel.reminders import Reminders
from kernel.tracebacks import summarize

logger = logging.getLogger(__name__)


class Outages:
    """The present outages of one pool, by reason."""

    def __init__(self, pool: str, url: str) -> None:
        self.pool = pool
        self._fields = {"pool": pool, "hosts": hosts_of(url)}
        self._reminders = Reminders()
        # By reason, the kinds of error: "unreachable" can have many.
        self.causes: dict[str, set[str]] = {}

    def note(self, reason: str, error: BaseException) -> None:
        """Count the failure; log a WARNING if its kind is new or the last line is 30 s old."""
        cause, code = driver_error(error), sqlstate(error) or None
        kind = f"{type(cause).__name__} {code}"
        self.causes.setdefault(reason, set()).add(kind)
        REFUSALS.add(1, self.pool, reason)
        OUTAGE.set(1, self.pool, reason)
        if failures := self._reminders.count((reason, kind)):
            fields = {"error": summarize(cause), "sqlstate": code, "failures": failures}
            self._log(UNAVAILABLE[reason], reason=reason, **fields)

    def note_failure(self, error: BaseException, *, is_read: bool) -> None:
        """Note a statement's error if the database, rather than the statement, is the cause."""
        reason = unavailability_of_read(error) if is_read else unavailability(error)
        if reason:
            self.note(reason, _refusal_of(error))
        elif isinstance(error, ShareTimeout):
            REFUSALS.add(1, self.pool, "share")

    def unreachable(self, error: Exception) -> DatabaseUnavailable:
        """Note that a connection could not be opened; the 503 to raise."""
        self.note(UNREACHABLE, error)
        return unavailable(UNREACHABLE)

    def end(self, reason: str) -> None:
        """Note that the reason is over; the next failure counts as a new outage."""
        if reason not in self.causes:
            return
        ended = {kind: self._reminders.end((reason, kind)) for kind in self.causes[reason]}
        unlogged = [count for count in ended.values() if count is not None]
        self.causes[reason] = {kind for kind, count in ended.items() if count is None}
        if not self.causes[reason]:
            del self.causes[reason]
            OUTAGE.set(0, self.pool, reason)
            self._log("the database can be used again", reason=reason, failures=sum(unlogged))

    def _log(self, message: str, **fields: object) -> None:
        logger.warning(message, extra={"fields": {**self._fields, **fields}})


def _refusal_of(error: BaseException) -> BaseException:
    """The server's refusal behind a PoolTimeout, if there is one, or else the error itself."""
    refusal = error.__cause__ if isinstance(error, PoolTimeout) else None
    return (refusal and refusal.__cause__) or error
