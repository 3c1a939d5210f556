"""Links: a pool's connections, each for asyncpg and for SQLAlchemy over it."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import Engine
from sqlalchemy import Pool as ConnectionPool

from kernel.data.driver import Connection
from kernel.data.outages import Outages
from kernel.data.pool import Pool
from kernel.data.sqlstate import NO_CONNECTION
from kernel.driver_errors import PoolTimeout
from kernel.settings import Settings


class Link(NamedTuple):
    """One connection: asyncpg's, the engine, and a SQLAlchemy pool that holds just this one."""

    raw: Connection
    engine: Engine
    pool: ConnectionPool

    def connect(self) -> SyncConnection:
        """SQLAlchemy's connection over it: one at a time, closed before the link is given back."""
        return SyncConnection(self.engine, connection=self.pool.connect())


def make_pool(
    open_link: Callable[[], Awaitable[Link]], settings: Settings, *, size: int, keep: int
) -> Pool[Link]:
    """A pool of at most `size` connections, of which `keep` stay open when idle."""
    return Pool(
        open_link,
        _close_link,
        size=size,
        keep=keep,
        timeout=settings.pool_timeout,
        max_age=settings.connection_max_age,
        is_lost=_is_lost,
        is_too_many=_is_too_many,
    )


async def take_link(pool: Pool[Link], outages: Outages, *, is_read: bool = False) -> Link:
    """A connection from the pool, never one to a server that is no longer the primary.

    Raises:
        PoolTimeout: none came free within the pool's timeout.
        Unavailable: none can be opened, and the pool has no other to wait for.
    """
    try:
        link = await pool.take()
        while link.raw.is_left():
            drop_link(pool, link)
            link = await pool.take()
    except PoolTimeout as error:
        outages.note_failure(error, is_read=is_read)
        raise
    if outages.causes:
        outages.end(NO_CONNECTION)
    return link


def drop_link(pool: Pool[Link], link: Link) -> None:
    """Close a connection that must not be used again."""
    if link.raw.is_lent or link.raw.cursors:
        link.raw.terminate()  # at once: other code may hold it, and must not send anything more
    pool.drop(link)


async def _close_link(link: Link) -> None:
    await link.raw.hang_up()


def _is_lost(link: Link) -> bool:
    return link.raw.is_closed()


def _is_too_many(link: Link) -> bool:
    return link.raw.is_place_scarce
