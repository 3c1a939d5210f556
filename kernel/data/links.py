"""Connections as their pools hold them: for asyncpg, and for SQLAlchemy over it."""

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
    """One connection: asyncpg's, and SQLAlchemy's engine and pool, which hold just this one."""

    raw: Connection
    engine: Engine
    pool: ConnectionPool

    def connect(self) -> SyncConnection:
        """SQLAlchemy's connection over it: one at a time, closed before it is given back."""
        return SyncConnection(self.engine, connection=self.pool.connect())


def make_pool(
    open_link: Callable[[], Awaitable[Link]], settings: Settings, *, size: int, keep: int
) -> Pool[Link]:
    """A pool of `size` connections at most, `keep` of which stay open when nobody uses them."""
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
    """A connection out of the pool.

    Raises:
        PoolTimeout: none came free within the pool's timeout.
        Unavailable: none can be had.
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
    """Close a connection that nobody else may have."""
    if link.raw.is_lent or link.raw.cursors:
        link.raw.terminate()  # at once: whoever has it must not send anything more
    pool.drop(link)


async def _close_link(link: Link) -> None:
    await link.raw.hang_up()


def _is_lost(link: Link) -> bool:
    return link.raw.is_closed()


def _is_too_many(link: Link) -> bool:
    return link.raw.is_place_scarce
