"""Why the database cannot be had: told when that changes, and then at most every 30 seconds."""

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
    """What ails the connections of one pool, which lead to `hosts`."""

    def __init__(self, pool: str, url: str) -> None:
        self.pool = pool
        self._fields = {"pool": pool, "hosts": hosts_of(url)}
        self._reminders = Reminders()
        # "unreachable" has many causes.
        self.causes: dict[str, set[str]] = {}

    def note(self, reason: str, error: BaseException) -> None:
        """Log the failure as a WARNING if it is a new one, or if the last line is old."""
        cause, code = driver_error(error), sqlstate(error) or None
        kind = f"{type(cause).__name__} {code}"
        self.causes.setdefault(reason, set()).add(kind)
        REFUSALS.add(1, self.pool, reason)
        OUTAGE.set(1, self.pool, reason)
        if failures := self._reminders.count((reason, kind)):
            fields = {"error": summarize(cause), "sqlstate": code, "failures": failures}
            self._log(UNAVAILABLE[reason], reason=reason, **fields)

    def note_failure(self, error: BaseException, *, is_read: bool) -> None:
        """Note a statement's failure, if it speaks of the database rather than of the statement."""
        reason = unavailability_of_read(error) if is_read else unavailability(error)
        if reason:
            self.note(reason, _refusal_of(error))
        elif isinstance(error, ShareTimeout):
            REFUSALS.add(1, self.pool, "share")

    def unreachable(self, error: Exception) -> DatabaseUnavailable:
        """Note that a connection could not be made, and give the answer."""
        self.note(UNREACHABLE, error)
        return unavailable(UNREACHABLE)

    def end(self, reason: str) -> None:
        """Note that it works again; the next failure is a new one."""
        if reason not in self.causes:
            return
        ended = {kind: self._reminders.end((reason, kind)) for kind in self.causes[reason]}
        untold = [count for count in ended.values() if count is not None]
        self.causes[reason] = {kind for kind, count in ended.items() if count is None}
        if not self.causes[reason]:
            del self.causes[reason]
            OUTAGE.set(0, self.pool, reason)
            self._log("the database can be used again", reason=reason, failures=sum(untold))

    def _log(self, message: str, **fields: object) -> None:
        logger.warning(message, extra={"fields": {**self._fields, **fields}})


def _refusal_of(error: BaseException) -> BaseException:
    """Why the server refuses connections, if nobody waits for one because of that."""
    refusal = error.__cause__ if isinstance(error, PoolTimeout) else None
    return (refusal and refusal.__cause__) or error
