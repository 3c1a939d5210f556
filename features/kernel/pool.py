"""Connections that wait to be used, and requests that wait for one, which are served in turn.

The pools of asyncpg and SQLAlchemy check a connection in and out for as much as a query costs, and
under load let a newcomer take what somebody else has waited for.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

C = TypeVar("C")


class Pool(Generic[C]):
    """At most `size` connections, of which `keep` stay open when nobody uses them."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        close: Callable[[C], Awaitable[None]],
        *,
        size: int,
        keep: int,
        timeout: float,
    ) -> None:
        self._connect, self._close = connect, close
        self._size = self._free = size
        self._keep, self._timeout = keep, timeout
        self._idle: list[C] = []
        self._closing: set[asyncio.Future[None]] = set()
        self._waiting: deque[asyncio.Future[C | None]] = deque()

    async def take(self) -> C:
        """A connection, for the caller to give back, or to drop.

        Raises:
            TimeoutError: none came free within the timeout, in seconds.
        """
        if self._idle:
            return self._idle.pop()
        if not self._free:
            if (given := await self._wait()) is not None:
                return given
        else:
            self._free -= 1
        try:
            return await self._connect()
        except BaseException:
            self._vacate()
            raise

    def give_back(self, connection: C) -> None:
        """Take back a connection that is ready for its next user."""
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(connection)
                return
        if len(self._idle) < self._keep:
            self._idle.append(connection)
        else:
            self.drop(connection)

    def drop(self, connection: C) -> None:
        """Close a connection that is lost, or in the middle of something.

        Nobody waits for that, or a frozen server would hold up who only wants to say so. Until it
        is closed, its place is taken.
        """
        closing = asyncio.ensure_future(self._drop(connection))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def expire(self) -> None:
        """Drop the idle connections: one was found dead, so all of them may be."""
        idle, self._idle = self._idle, []
        for connection in idle:
            self.drop(connection)

    async def close(self) -> None:
        """Close what is idle, and wait for it."""
        self.expire()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def in_use(self) -> int:
        """How many connections somebody has taken."""
        return self._size - self._free - len(self._idle)

    async def _drop(self, connection: C) -> None:
        try:
            await self._close(connection)
        finally:
            self._vacate()

    async def _wait(self) -> C | None:
        """A connection that somebody gives back, or None for a place to make one in."""
        waiter: asyncio.Future[C | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._timeout):
                return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self._return(waiter.result())
            raise

    def _return(self, given: C | None) -> None:
        if given is None:
            self._vacate()
        else:
            self.give_back(given)

    def _vacate(self) -> None:
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(None)
                return
        self._free += 1
