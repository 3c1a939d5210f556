"""The idle connections of a pool, and the age at which each connection is closed."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)
IDLE_SECONDS = 60.0


class Idle(Generic[C]):
    """A stack: the connection used last is used next, so those at the front are idle the longest.

    `drop` is called for a connection beyond `keep` that has been idle for `idle_seconds`, and for
    an idle one older than `max_age` seconds, plus or minus 10 % at random.
    """

    def __init__(
        self, keep: int, idle_seconds: float, max_age: float, drop: Callable[[C], None]
    ) -> None:
        self._keep, self._idle_seconds, self._max_age = keep, idle_seconds, max_age
        self._drop = drop
        self._waiting: deque[tuple[C, float]] = deque()
        self._expiry: dict[C, float] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, connection: C) -> None:
        """Start the age of a new connection."""
        age = self._max_age * random.uniform(0.9, 1.1)  # noqa: S311  # no secret
        self._expiry[connection] = time.monotonic() + age

    def is_old(self, connection: C) -> bool:
        return time.monotonic() >= self._expiry[connection]

    def end(self, connection: C) -> None:
        """Forget a connection that is being closed."""
        del self._expiry[connection]

    def push(self, connection: C) -> None:
        self._waiting.append((connection, time.monotonic()))
        if self._sweeper is None:
            self._sweep_later()

    def pop(self) -> C:
        return self._waiting.pop()[0]

    def close(self) -> None:
        """Stop the timer that drops idle connections."""
        if self._sweeper:
            self._sweeper.cancel()

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self._idle_seconds / 2, self._sweep)

    def _sweep(self) -> None:
        self._sweeper, latest = None, time.monotonic() - self._idle_seconds
        while len(self._waiting) > self._keep and self._waiting[0][1] <= latest:
            self._drop(self._waiting.popleft()[0])
        for entry in [entry for entry in self._waiting if self.is_old(entry[0])]:
            self._waiting.remove(entry)
            self._drop(entry[0])
        if self._waiting:
            self._sweep_later()
