"""Connections that wait to be used, and requests that wait for one, which are served in turn.

The pools of asyncpg and SQLAlchemy check a connection in and out for as much as a query costs, and
under load let a newcomer take what somebody else has waited for.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from kernel.driver_errors import PoolTimeout

C = TypeVar("C")

IDLE_SECONDS = 60.0


class Pool(Generic[C]):
    """At most `size` connections. Those beyond `keep` are closed when nobody has used them for
    `idle_seconds`, never because they are given back: load that needs them comes in waves, and to
    connect costs as much as twenty queries."""

    def __init__(  # noqa: PLR0913  # they are named
        self,
        connect: Callable[[], Awaitable[C]],
        close: Callable[[C], Awaitable[None]],
        *,
        size: int,
        keep: int,
        timeout: float,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._connect, self._close = connect, close
        self._size = self._free = size
        self._connecting, self._is_closed = 0, False
        self._keep, self._timeout, self._idle_seconds = keep, timeout, idle_seconds
        # The last one used is the next one, so that those at the front are idle the longest.
        self._idle: deque[tuple[C, float]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Future[None]] = set()
        self._waiting: deque[asyncio.Future[C | None]] = deque()

    async def take(self) -> C:
        """A connection, for the caller to give back, or to drop.

        Raises:
            PoolTimeout: none came free within the timeout, in seconds.
        """
        if self._idle:
            return self._idle.pop()[0]
        if not self._free:
            if (given := await self._wait()) is not None:
                return given
        else:
            self._free -= 1
        self._connecting += 1
        try:
            return await self._connect()
        except BaseException:
            self._vacate()
            raise
        finally:
            self._connecting -= 1

    def give_back(self, connection: C) -> None:
        """Take back a connection that is ready for its next user."""
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(connection)
                return
        if self._is_closed:
            self.drop(connection)
            return
        self._idle.append((connection, time.monotonic()))
        if self._sweeper is None and len(self._idle) > self._keep:
            self._sweep_later()

    def drop(self, connection: C) -> None:
        """Close a connection that is lost, or in the middle of something.

        Closing runs in the background: a frozen server must not delay the error response. Until it
        is closed, its place is taken.
        """
        closing = asyncio.ensure_future(self._drop(connection))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def expire(self) -> None:
        """Drop the idle connections: one was found dead, so all of them may be."""
        while self._idle:
            self.drop(self._idle.pop()[0])

    async def close(self) -> None:
        """Close what is idle, and wait for it; what is given back later is closed, too."""
        self._is_closed = True
        if self._sweeper:
            self._sweeper.cancel()
        self.expire()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def in_use(self) -> int:
        """How many connections somebody has taken."""
        return self._size - self._free - len(self._idle)

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self._idle_seconds / 2, self._sweep)

    def _sweep(self) -> None:
        """Drop what is beyond `keep` and has been idle for long enough."""
        self._sweeper = None
        latest = time.monotonic() - self._idle_seconds
        while len(self._idle) > self._keep and self._idle[0][1] <= latest:
            self.drop(self._idle.popleft()[0])
        if len(self._idle) > self._keep:
            self._sweep_later()

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
        except TimeoutError:
            self._return(waiter)
            raise PoolTimeout(is_connecting=self._connecting * 2 >= self._size) from None
        except BaseException:
            self._return(waiter)
            raise

    def _return(self, waiter: "asyncio.Future[C | None]") -> None:
        """Pass on what came at the very moment when nobody waited for it any more."""
        if not waiter.done() or waiter.cancelled():
            return
        given = waiter.result()
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
