"""Fair queueing: callers take turns, and each has at most a share."""

import asyncio
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Load(NamedTuple):
    """A pool's load: most connections, connections in use, and requests that wait for one."""

    size: int
    in_use: int
    waiting: int


class Turns(Generic[T]):
    """Counts what each caller holds, at most `share`, and queues requests for more. Callers are
    served one after the other (round robin), the requests of one caller first come, first served.

    The caller None stands for work without one, which has no limit.
    """

    def __init__(self, share: int) -> None:
        self.share = share
        self._held: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[T]]] = {}

    @property
    def is_awaited(self) -> bool:
        """Whether any request waits."""
        return bool(self._waiting)

    def has_share(self, caller: Hashable) -> bool:
        """Whether the caller holds its whole share."""
        return self._held.get(caller, 0) >= self.share

    def begin(self, caller: Hashable) -> None:
        """Count one more that the caller holds."""
        if caller is not None:
            self._held[caller] = self._held.get(caller, 0) + 1

    def end(self, caller: Hashable) -> None:
        """Count one that the caller has given back."""
        if caller is None:
            return
        if (count := self._held[caller]) > 1:
            self._held[caller] = count - 1
        else:
            del self._held[caller]

    def wait(self, caller: Hashable) -> "asyncio.Future[T]":
        """A future that is set when it is the caller's turn."""
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(waiter)
        return waiter

    def leave(self, caller: Hashable, waiter: "asyncio.Future[T]") -> None:
        """Remove a waiter from the queue."""
        waiters = self._waiting.get(caller, deque())
        with suppress(ValueError):
            waiters.remove(waiter)
        if not waiters:
            self._waiting.pop(caller, None)

    def waiting(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._waiting.values()))

    def next(self) -> "asyncio.Future[T] | None":
        """The waiter whose turn it is, counted for its caller; None if nobody may have more."""
        if not self._waiting:
            return None
        for caller in [*self._waiting]:
            if self.has_share(caller):
                continue
            waiters = self._waiting.pop(caller)
            waiter = next((future for future in _popped(waiters) if not future.done()), None)
            if waiters:
                self._waiting[caller] = waiters  # behind the others
            if waiter is not None:
                self.begin(caller)
                return waiter
        return None


def _popped(waiters: "deque[asyncio.Future[T]]") -> "Iterator[asyncio.Future[T]]":
    while waiters:
        yield waiters.popleft()
