"""Connections that wait to be used, and requests that wait for one, whose callers take turns.

The pools of asyncpg and SQLAlchemy check a connection in and out for as much as a query costs, and
under load let a newcomer take what somebody else has waited for, and one caller take them all.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from kernel.context import counting_wait, current_context
from kernel.data.turns import Turns
from kernel.driver_errors import PoolTimeout, ShareTimeout

C = TypeVar("C", bound=Hashable)

IDLE_SECONDS = 60.0


class Pool(Generic[C]):
    """At most `size` connections, half of them at most for one caller: an account or, until that is
    known, an address. What is no request's work has no caller.

    Those beyond `keep` are closed when nobody has used them for `idle_seconds`, never because they
    are given back: load that needs them comes in waves, and to connect costs as much as twenty
    queries.
    """

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
        self._turns: Turns[C | None] = Turns(max(1, size // 2))
        self._callers: dict[C, Hashable] = {}  # of those that are taken

    async def take(self) -> C:
        """A connection, for the caller to give back, or to drop.

        Raises:
            PoolTimeout: none came free within the timeout, in seconds; a ShareTimeout, if the
                caller's own requests have all that it may have.
        """
        caller = (context := current_context()) and context.caller
        connection: C | None = None
        if self._turns.has_share(caller) or not (self._idle or self._free):
            connection = await self._wait(caller)
        else:
            self._turns.begin(caller)
            if self._idle:
                connection = self._idle.pop()[0]
            else:
                self._free -= 1
        if connection is None:
            connection = await self._open(caller)
        self._callers[connection] = caller
        return connection

    def give_back(self, connection: C) -> None:
        """Take back a connection that is ready for its next user."""
        self._turns.end(self._callers.pop(connection))
        if waiter := self._turns.next():
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
        closing = asyncio.ensure_future(self._drop(connection, self._callers.pop(connection, None)))
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

    async def _open(self, caller: Hashable) -> C:
        self._connecting += 1
        try:
            with counting_wait():
                return await self._connect()
        except BaseException:
            self._vacate(caller)
            raise
        finally:
            self._connecting -= 1

    async def _drop(self, connection: C, caller: Hashable) -> None:
        try:
            await self._close(connection)
        finally:
            self._vacate(caller)

    async def _wait(self, caller: Hashable) -> C | None:
        """A connection that somebody gives back, or None for a place to make one in."""
        waiter = self._turns.wait(caller)
        try:
            with counting_wait():
                async with asyncio.timeout(self._timeout):
                    return await waiter
        except TimeoutError:
            self._return(waiter, caller)
            is_connecting = self._connecting >= self._turns.share
            has_share = self._turns.share < self._size and self._turns.has_share(caller)
            if has_share and not is_connecting:
                raise ShareTimeout from None
            raise PoolTimeout(is_connecting=is_connecting) from None
        except BaseException:
            self._return(waiter, caller)
            raise

    def _return(self, waiter: "asyncio.Future[C | None]", caller: Hashable) -> None:
        """Pass on what came at the very moment when nobody waited for it any more."""
        self._turns.leave(caller, waiter)
        if not waiter.done() or waiter.cancelled():
            return
        connection = waiter.result()
        if connection is None:
            self._vacate(caller)
        else:
            self._callers[connection] = caller
            self.give_back(connection)

    def _vacate(self, caller: Hashable) -> None:
        self._turns.end(caller)
        if waiter := self._turns.next():
            waiter.set_result(None)
        else:
            self._free += 1
