"""The servers that a database URL names: tried one by one, the last good one first.

asyncpg tries all of them within one timeout, so a server that does not answer, such as a machine
that is gone, would use up the time of those after it, for each new connection.
"""

import logging
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import asyncpg

from kernel.data.sqlstate import is_disconnect
from kernel.database_urls import hosts_of, split_hosts, target_of, with_target
from kernel.driver_errors import DRIVER_ERRORS
from kernel.reminders import Reminders
from kernel.tracebacks import summarize

# For how long a server that could not be reached is tried last.
AWAY_SECONDS = 30.0
# asyncpg decides these by `default_transaction_read_only`, which connections for reads set.
BY_DEFAULT = {"read-write": "primary", "read-only": "any"}
logger = logging.getLogger(__name__)


class Servers:
    """The servers of one URL, with what this process's connections have learnt of them."""

    def __init__(self, url: str) -> None:
        self._urls, self._target = split_hosts(url), target_of(url)
        self.good, self._judged = self._urls[0], ""
        self._away_until: dict[str, float] = {}
        self._reminders = Reminders()

    async def connect(
        self, *, timeout_seconds: float, read_only: bool = False, **options: Any
    ) -> Any:
        """asyncpg's connection to the first server that answers and matches the URL's
        `target_session_attrs`.

        Each server has `timeout_seconds`; the options are those of `asyncpg.connect`. `read_only`
        says that they make transactions read-only.

        Raises:
            asyncpg.TargetServerAttributeNotMatched: no server matches.
            OSError, asyncpg.PostgresError: no server could be reached, or one refused.
        """
        failure: BaseException | None = None
        unreachable: set[str] = set()
        for url, target in self._turns(unreachable):
            try:
                attrs = await self._judge(url, target, timeout_seconds) if read_only else target
                connection = await asyncpg.connect(
                    with_target(url, attrs), timeout=timeout_seconds, **options
                )
            except asyncpg.TargetServerAttributeNotMatched as error:
                failure = failure or error
            except BaseException as error:
                unreachable.add(url)
                self._note_failure(url, error)
                if not _is_away(error):
                    raise
                failure = error
            else:
                self.good = self._judged = url
                if self._away_until.pop(url, None):
                    self._reminders.end(url)
                return connection
        raise failure or AssertionError("unreachable")

    @property
    def are_several(self) -> bool:
        return len(self._urls) > 1

    def leaving(self, url: str) -> Callable[[], bool]:
        """A function that tells whether another server has replaced this one as the primary."""
        return partial(self._is_left, url) if self.are_several else bool

    def _is_left(self, url: str) -> bool:
        return url != self.good and self._target in {"primary", "read-write"}

    def _turns(self, unreachable: set[str]) -> Iterator[tuple[str, str | None]]:
        """The servers in the order to try, those that are away last, each with its target."""
        now = time.monotonic()
        urls = sorted(self._urls, key=lambda url: url != self.good)
        away = [url for url in urls if self._away_until.get(url, 0) > now]
        targets = ["standby", "any"] if self._target == "prefer-standby" else [self._target]
        for target in targets:
            yield from ((url, target) for url in urls if url not in away and url not in unreachable)
        yield from ((url, targets[-1]) for url in away)

    async def _judge(self, url: str, target: str | None, timeout_seconds: float) -> str | None:
        """The target for a connection for reads. Of several servers, one is checked first by a
        connection without settings, which asyncpg decides by correctly."""
        if target not in BY_DEFAULT:
            return target
        if url != self._judged and self.are_several:
            plain = await asyncpg.connect(with_target(url, target), timeout=timeout_seconds)
            await plain.close(timeout=timeout_seconds)
        return BY_DEFAULT[target]

    def _note_failure(self, url: str, error: BaseException) -> None:
        if url == self._judged:
            self._judged = ""
        self._away_until[url] = time.monotonic() + AWAY_SECONDS
        several = self.are_several and isinstance(error, Exception)
        if several and (failures := self._reminders.count(url)):
            fields = {"hosts": hosts_of(url), "error": summarize(error), "failures": failures}
            logger.warning("one of the database's servers fails", extra={"fields": fields})


def _is_away(error: BaseException) -> bool:
    """Whether the server could not be reached; one that refuses a password has been."""
    is_lost = isinstance(error, DRIVER_ERRORS) and is_disconnect(error)
    return is_lost or isinstance(error, OSError | UnicodeError)  # of an invalid host name


# The pools of one URL share what they have learnt of its servers.
servers_of = cache(Servers)
