"""The connection pools of writes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from kernel.context import current_context
from kernel.data.connections import connect
from kernel.data.driver import Connection, Isolation
from kernel.data.engine import link_opener
from kernel.data.links import Link, make_pool
from kernel.data.outages import Outages
from kernel.data.pool import Pool
from kernel.data.turns import Load
from kernel.data.unit_of_work import UnitOfWork
from kernel.settings import Settings

# The sizes of the pools for sessions within a session, and for those within these.
NESTED = (4, 2)
innermost_unit: ContextVar[UnitOfWork | None] = ContextVar("innermost_unit", default=None)


class Writer:
    """The service's connections for writes.

    A session that is opened within another one takes its connection from another pool. From the
    same pool it could deadlock: every connection held by a session that waits for a second one.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        pools: list[Pool[Link]],
        outages: Outages,
    ) -> None:
        self.connect, self._pools, self._outages = connect, pools, outages

    def unit_of_work(self, isolation: Isolation | None = None) -> UnitOfWork:
        """The unit of work of a request, which the boundary commits."""
        return UnitOfWork(self._pools[0], self._outages, isolation, is_owned=False)

    def independent_unit(self, isolation: Isolation | None = None) -> UnitOfWork:
        """A unit of work that is committed by the code that opens it."""
        context = current_context()
        outer: UnitOfWork | None = innermost_unit.get() or (context.unit if context else None)
        depth, unit = 0, outer
        while unit is not None:
            depth += unit.holds_connection
            unit = unit.outer
        pool = self._pools[min(depth, len(self._pools) - 1)]
        inner = UnitOfWork(pool, self._outages, isolation, is_owned=True)
        inner.outer = outer
        return inner

    def in_use(self) -> int:
        """The number of connections in use."""
        return sum(pool.in_use() for pool in self._pools)

    def loads(self) -> Iterator[tuple[str, Load]]:
        """The name and the load of each pool."""
        for depth, pool in enumerate(self._pools):
            yield f"writer_nested_{depth}" if depth else "writer", pool.load()

    def expire(self) -> None:
        """Drop the idle connections: one was found dead, so all of them may be."""
        for pool in self._pools:
            pool.expire()


@asynccontextmanager
async def open_writer(url: str, settings: Settings, name: str) -> AsyncIterator[Writer]:
    """Open the pools; each connection is made when it is first needed."""
    outages = Outages("writer", url)

    async def open_connection() -> Connection:
        return await connect(url, settings, outages, name=name)

    open_link = link_opener(open_connection, outages)
    keep, size = settings.pool_size, settings.pool_size + settings.max_overflow
    pools = [
        make_pool(open_link, settings, size=most, keep=least)
        for most, least in ((size, keep), *((most, 0) for most in NESTED))
    ]
    try:
        yield Writer(open_connection, pools, outages)
    finally:
        for pool in pools:
            await pool.close()
