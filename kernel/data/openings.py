"""When a pool may open another connection: few at once, with back-off after a refusal."""

import asyncio
import random
import time
from collections.abc import Callable

FIRST_SECONDS = 0.05
# The longest back-off: without any connection, and while others serve requests.
MOST_SECONDS, MOST_SECONDS_BESIDE_OTHERS = 1.0, 5.0


def never(_: object) -> bool:
    """A predicate that is true for nothing."""
    return False


class Openings:
    """Counts a pool's places: `free`, `connecting` or `live`; a connection that is being closed
    still takes one that is none of these. `on_opening` is called when an attempt may be made.

    At a time there is at most one attempt more than there are connections. After a refusal there is
    one at a time; each further refusal doubles the delay, which is random so that processes do not
    come together.
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
        """Whether waiting is in vain: connections are being opened or refused, and few are live."""
        return (self.connecting > 0 or self._refusals > 0) and self.live <= self.connecting

    def has_been_shut(self, seconds: float) -> bool:
        """Whether there has been no connection for `seconds`, and no attempt may be made now."""
        is_shut = self._refusals > 0 and not self.live and not self.may_connect
        return is_shut and time.monotonic() - self._since >= seconds

    def reserve(self) -> None:
        """Begin an attempt to connect in a free place."""
        self.free -= 1
        self.connecting += 1

    def give_up(self, refusal: Exception | None = None) -> None:
        """End an attempt without a connection; `vacate` has to follow."""
        self.connecting -= 1
        if refusal:
            self.wait(refusal)

    def succeed(self) -> None:
        """End an attempt with a connection."""
        self.connecting -= 1
        self.live += 1

    def go_on(self, *, is_enough: bool) -> None:
        """Note that the server accepts connections. Unless there are enough, go on one by one."""
        self._refusals = 0 if is_enough else min(self._refusals, 1)
        self.refusal = None
        self._on_opening()

    def lose(self) -> None:
        """Note that a connection is being closed; if it was the last, do not wait to try again."""
        self.live -= 1
        if not self.live and self._retry:
            self._try_again()

    def vacate(self) -> None:
        """Free a place whose connection is closed or was not made."""
        self.free += 1
        self._on_opening()

    def wait(self, refusal: Exception | None) -> None:
        """Back off: make no attempt for a while, because of a refusal or of a full server."""
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
        """Cancel the planned attempt."""
        self._is_closed = is_for_good
        if self._retry:
            self._retry.cancel()
        self._retry = None

    def _try_again(self) -> None:
        self.close(is_for_good=self._is_closed)
        self._on_opening()
