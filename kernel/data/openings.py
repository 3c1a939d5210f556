"""When a pool may make another connection."""

import asyncio
import random
import time
from collections.abc import Callable

FIRST_SECONDS = 0.05
# With other connections to serve from, a pool is in no hurry.
MOST_SECONDS, MOST_SECONDS_BESIDE_OTHERS = 1.0, 5.0


def never(_: object) -> bool:
    """None is."""
    return False


class Openings:
    """The places of a pool: `free`, `connecting` or `live`, but for those whose connection is being
    closed. `on_opening` is called when there is another one to connect in.

    Attempts are at most one more at a time than there are connections. After a refusal it is one at
    a time, twice as late after each further one, and never together with other processes.
    """

    def __init__(self, size: int, on_opening: Callable[[], None]) -> None:
        self.free, self.connecting, self.live = size, 0, 0
        self.refusal: Exception | None = None
        self._on_opening = on_opening
        self._refusals, self._since, self._is_closed = 0, 0.0, False
        self._retry: asyncio.TimerHandle | None = None

    @property
    def may_connect(self) -> bool:
        if not self.free:
            return False
        if self._refusals:
            return not self.connecting and self._retry is None
        return self.connecting <= self.live

    @property
    def is_in_vain(self) -> bool:
        """Whether there are hardly any connections because they cannot be made, or not yet."""
        return (self.connecting > 0 or self._refusals > 0) and self.live <= self.connecting

    def has_been_shut(self, seconds: float) -> bool:
        """Whether there is no connection, and none could be made for so long."""
        is_shut = self._refusals > 0 and not self.live and not self.may_connect
        return is_shut and time.monotonic() - self._since >= seconds

    def reserve(self) -> None:
        """Begin an attempt."""
        self.free -= 1
        self.connecting += 1

    def give_up(self, refusal: Exception | None = None) -> None:
        """End an attempt without a connection; its place is still to be vacated."""
        self.connecting -= 1
        if refusal:
            self.wait(refusal)

    def succeed(self) -> None:
        """End an attempt with a connection."""
        self.connecting -= 1
        self.live += 1

    def go_on(self, *, is_enough: bool) -> None:
        """Note that the server takes connections; one by one as long as there are not enough."""
        self._refusals = 0 if is_enough else min(self._refusals, 1)
        self.refusal = None
        self._on_opening()

    def lose(self) -> None:
        """Note that a connection is closed; without any, the next attempt is made at once."""
        self.live -= 1
        if not self.live and self._retry:
            self._try_again()

    def vacate(self) -> None:
        """Free a place in which there is nothing any more."""
        self.free += 1
        self._on_opening()

    def wait(self, refusal: Exception | None) -> None:
        """Make no attempt for a while."""
        if not self._refusals or self.refusal is None:
            self._since = time.monotonic()
        most = MOST_SECONDS_BESIDE_OTHERS if self.live else MOST_SECONDS
        delay = min(FIRST_SECONDS * 2.0 ** min(self._refusals, 10), most)
        delay *= random.uniform(0.5, 1)  # noqa: S311  # no secret
        self._refusals, self.refusal = self._refusals + 1, refusal
        self.close(is_for_good=self._is_closed)
        if not self._is_closed:
            self._retry = asyncio.get_running_loop().call_later(delay, self._try_again)

    def close(self, *, is_for_good: bool = True) -> None:
        """Plan no further attempt."""
        self._is_closed = is_for_good
        if self._retry:
            self._retry.cancel()
        self._retry = None

    def _try_again(self) -> None:
        self.close(is_for_good=self._is_closed)
        self._on_opening()
