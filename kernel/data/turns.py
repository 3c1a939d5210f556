"""Who is next when there is not enough for all: callers take turns, and have a share at most."""

import asyncio
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Load(NamedTuple):
    """Of a pool: how many it may have, how many somebody has taken, and how many wait for one."""

    size: int
    in_use: int
    waiting: int


class Turns(Generic[T]):
    """What each caller has, of which `share` is the most, and who waits for more, in turn: first
    come, first served among one caller's requests, and one caller after the other.

    None is nobody's caller, and has no share to keep to.
    """

    def __init__(self, share: int) -> None:
        self.share = share
        self._held: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[T]]] = {}

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def has_share(self, caller: Hashable) -> bool:
        """Whether the caller has all that it may have at once."""
        return self._held.get(caller, 0) >= self.share

    def begin(self, caller: Hashable) -> None:
        """Count what the caller gets."""
        if caller is not None:
            self._held[caller] = self._held.get(caller, 0) + 1

    def end(self, caller: Hashable) -> None:
        """Count what it has given back."""
        if caller is None:
            return
        if (count := self._held[caller]) > 1:
            self._held[caller] = count - 1
        else:
            del self._held[caller]

    def wait(self, caller: Hashable) -> "asyncio.Future[T]":
        """What is done when it is the caller's turn."""
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(waiter)
        return waiter

    def leave(self, caller: Hashable, waiter: "asyncio.Future[T]") -> None:
        """Wait no longer."""
        waiters = self._waiting.get(caller, deque())
        with suppress(ValueError):
            waiters.remove(waiter)
        if not waiters:
            self._waiting.pop(caller, None)

    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def next(self) -> "asyncio.Future[T] | None":
        """Whose turn it is, which is counted."""
        if not self._waiting:
            return None
        for caller in [*self._waiting]:
            if self.has_share(caller):
                continue
            waiters = self._waiting.pop(caller)
            waiter = next((each for each in _popped(waiters) if not each.done()), None)
            if waiters:
                self._waiting[caller] = waiters  # behind the others
            if waiter is not None:
                self.begin(caller)
                return waiter
        return None


def _popped(waiters: "deque[asyncio.Future[T]]") -> "Iterator[asyncio.Future[T]]":
    while waiters:
        yield waiters.popleft()
