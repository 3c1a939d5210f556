"""A connection pool that is fair: waiting requests are served in turn by caller.

In the pools of asyncpg and SQLAlchemy, checking a connection in and out costs as much as a query.
Under load, they let a newcomer overtake those who wait, and one caller take all connections.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from kernel.context import counting_wait, current_context
from kernel.data.idle import IDLE_SECONDS, Idle
from kernel.data.openings import Openings, never
from kernel.data.turns import Load, Turns
from kernel.driver_errors import PoolTimeout, ShareTimeout

C = TypeVar("C", bound=Hashable)

# A pool may keep this many connections even when the server is nearly full.
FEW = 2


class Pool(Generic[C]):
    """At most `size` connections, at most half of them for one caller: an account or, until that is
    known, an address. Work outside of requests has no caller, and no such limit.

    Connections beyond `keep` are closed when they have been idle for `idle_seconds`, not as soon as
    they are given back: load comes in waves, and connecting costs as much as twenty queries. Each
    is closed at an age of about `max_age` seconds, when it is not in use.

    A request whose new connection is refused by the server waits for one of the others. `is_lost`
    tells whether an idle connection has died, `is_too_many` whether a new one takes a place at the
    server that others need more. All times are in seconds.
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
        max_age: float = math.inf,
        is_lost: Callable[[C], bool] = never,
        is_too_many: Callable[[C], bool] = never,
    ) -> None:
        self._connect, self._close = connect, close
        self._is_lost, self._is_too_many = is_lost, is_too_many
        self._size, self._timeout, self._is_closed = size, timeout, False
        self._openings = Openings(size, self._hand_out)
        self._idle = Idle(keep, idle_seconds, max_age, self.drop)
        self._closing: set[asyncio.Future[None]] = set()
        self._turns: Turns[C | None] = Turns(max(1, size // 2))
        self._callers: dict[C, Hashable] = {}  # of the connections in use

    async def take(self) -> C:
        """A connection; `give_back` or `drop` it afterwards.

        Raises:
            PoolTimeout: none came free within the timeout.
            ShareTimeout: none did, and the caller's own requests hold its whole share.
            Exception: what `connect` raises, if there is no other connection to wait for.
        """
        caller = (context := current_context()) and context.caller
        while self._idle and not self._turns.has_share(caller):
            connection = self._idle.pop()
            if not self._is_lost(connection):
                self._turns.begin(caller)
                break
            self.drop(connection)
        else:
            connection = await self._obtain(caller)
        self._callers[connection] = caller
        return connection

    def give_back(self, connection: C) -> None:
        """Take back a connection that is ready for its next user."""
        if self._idle.is_old(connection):
            self.drop(connection)
            return
        self._turns.end(self._callers.pop(connection))
        if waiter := self._turns.next():
            waiter.set_result(connection)
        elif self._is_closed:
            self.drop(connection)
        else:
            self._idle.push(connection)

    def drop(self, connection: C) -> None:
        """Close a connection that is lost, or in an unknown state.

        Closing runs in the background: a frozen server must not delay the error response. Its place
        is free only when it is closed.
        """
        self._idle.end(connection)
        self._openings.lose()
        closing = asyncio.ensure_future(self._drop(connection, self._callers.pop(connection, None)))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def expire(self) -> None:
        """Drop the idle connections: one of them was dead, so all may be."""
        while self._idle:
            self.drop(self._idle.pop())

    async def close(self) -> None:
        """Close the idle connections and wait for it; those in use close when given back."""
        self._is_closed = True
        self._idle.close()
        self._openings.close()
        self.expire()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def in_use(self) -> int:
        """How many connections are in use, or being opened or closed."""
        return self._size - self._openings.free - len(self._idle)

    def load(self) -> Load:
        """The pool's size, its connections in use, and the requests that wait."""
        return Load(self._size, self.in_use(), self._turns.waiting())

    async def _obtain(self, caller: Hashable) -> C:
        """A connection that is opened now, or that another request gives back."""
        if self._openings.has_been_shut(self._timeout):
            raise PoolTimeout(is_connecting=True) from self._openings.refusal
        deadline = asyncio.get_running_loop().time() + self._timeout
        connection: C | None = None
        if self._turns.has_share(caller) or not self._openings.may_connect:
            connection = await self._wait(caller, deadline)
        else:
            self._turns.begin(caller)
            self._openings.reserve()
        while connection is None:
            connection = await self._open(caller) or await self._wait(caller, deadline)
        return connection

    async def _open(self, caller: Hashable) -> C | None:
        """A new connection, or None if it is refused while there are others to wait for."""
        try:
            with counting_wait():
                connection = await self._connect()
        except Exception as error:
            self._openings.give_up(error)
            self._vacate(caller)
            if self._openings.live:
                return None
            raise
        except BaseException:
            self._openings.give_up()
            self._vacate(caller)
            raise
        self._openings.succeed()
        self._idle.begin(connection)
        if self._openings.live > FEW and self._is_too_many(connection):
            self._callers[connection] = caller
            self.drop(connection)
            self._openings.wait(None)
            return None
        self._openings.go_on(is_enough=not self._turns.is_awaited)
        return connection

    async def _drop(self, connection: C, caller: Hashable) -> None:
        try:
            await self._close(connection)
        finally:
            self._vacate(caller)

    async def _wait(self, caller: Hashable, deadline: float) -> C | None:
        """A connection that is given back, or None for permission to open one."""
        waiter = self._turns.wait(caller)
        try:
            with counting_wait():
                async with asyncio.timeout_at(deadline):
                    return await waiter
        except TimeoutError:
            self._return(waiter, caller)
            if self._openings.is_in_vain:
                raise PoolTimeout(is_connecting=True) from self._openings.refusal
            if self._turns.share < self._size and self._turns.has_share(caller):
                raise ShareTimeout from None
            raise PoolTimeout(is_connecting=False) from None
        except BaseException:
            self._return(waiter, caller)
            raise

    def _return(self, waiter: "asyncio.Future[C | None]", caller: Hashable) -> None:
        """Pass on what the waiter got at the very moment when it timed out or was cancelled."""
        self._turns.leave(caller, waiter)
        if not waiter.done() or waiter.cancelled():
            return
        connection = waiter.result()
        if connection is None:
            self._openings.give_up()
            self._vacate(caller)
        else:
            self._callers[connection] = caller
            self.give_back(connection)

    def _vacate(self, caller: Hashable) -> None:
        self._turns.end(caller)
        self._openings.vacate()

    def _hand_out(self) -> None:
        """Let waiters open connections while that is allowed."""
        while self._openings.may_connect and (waiter := self._turns.next()):
            self._openings.reserve()
            waiter.set_result(None)
