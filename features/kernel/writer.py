"""The connections of writes, and their transactions.

SQLAlchemy believes that these are in autocommit mode, so that it leaves BEGIN, COMMIT and ROLLBACK
to the session.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from features.kernel.connections import make_engine
from features.kernel.settings import Settings

RawConnection = asyncpg.Connection  # generic in its stubs alone


class Link(NamedTuple):
    """One connection, as SQLAlchemy's and as asyncpg's."""

    connection: AsyncConnection
    raw: "RawConnection[asyncpg.Record]"


async def begin(raw: "RawConnection[asyncpg.Record]") -> None:
    """Begin a transaction, unless there is one."""
    if not raw.is_in_transaction():
        await raw.execute("BEGIN")


async def commit(raw: "RawConnection[asyncpg.Record]") -> None:
    """Commit the transaction, if there is one.

    Raises:
        RuntimeError: it had failed, and somebody has caught the error. The server says no more to
            this than ROLLBACK (PostgreSQL manual, COMMIT).
    """
    if raw.is_in_transaction() and await raw.execute("COMMIT") != "COMMIT":
        raise RuntimeError("this transaction has failed before, so it cannot be committed")


async def rollback(raw: "RawConnection[asyncpg.Record]") -> None:
    """Undo the transaction, if there is one."""
    if raw.is_in_transaction():
        await raw.execute("ROLLBACK")


class WritePool:
    """Idle connections, which stay taken from SQLAlchemy's pool: to check one in and out again
    costs as much as two queries."""

    def __init__(self, engine: AsyncEngine, size: int) -> None:
        self._engine = engine
        self._size = size
        self._idle: list[Link] = []
        self._waiting = 0

    async def take(self) -> Link:
        """A connection, which the caller gives back, in no transaction, or drops."""
        if self._idle:
            return self._idle.pop()
        self._waiting += 1
        try:
            connection = await self._engine.connect()
        finally:
            self._waiting -= 1
        fairy = await connection.get_raw_connection()
        return Link(connection, fairy.driver_connection)  # type: ignore[arg-type]  # it is asyncpg's

    async def give_back(self, link: Link) -> None:
        if self._waiting or len(self._idle) >= self._size:
            await link.connection.close()
        else:
            self._idle.append(link)

    async def drop(self, link: Link) -> None:
        """Close a connection that is lost, or in the middle of something."""
        await link.connection.invalidate()
        await link.connection.close()

    async def expire(self) -> None:
        """Drop the idle connections: one was found dead, so all of them may be."""
        idle, self._idle = self._idle, []
        for link in idle:
            await self.drop(link)

    def in_use(self) -> int:
        """How many connections somebody has taken."""
        checked_out: int = self._engine.pool.checkedout()  # type: ignore[attr-defined]
        return checked_out - len(self._idle)


@asynccontextmanager
async def open_writer(url: str, settings: Settings) -> AsyncIterator[WritePool]:
    """The pool, which connects when it is first used, not before."""
    engine = make_engine(url, settings, settings.pool_size, settings.max_overflow, "AUTOCOMMIT")
    event.listen(engine.sync_engine, "begin", _begin)
    pool = WritePool(engine, settings.pool_size)
    try:
        yield pool
    finally:
        await pool.expire()
        await engine.dispose()


def _begin(connection: Connection) -> None:
    adapted: Any = connection.connection.dbapi_connection
    adapted.run_async(begin)
