"""The connections of writes, and their transactions.

SQLAlchemy believes that these are in autocommit mode, so that it leaves BEGIN, COMMIT and ROLLBACK
to the session.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy import Connection, NullPool, event
from sqlalchemy.ext.asyncio import AsyncConnection

from features.kernel.connections import make_engine
from features.kernel.pool import Pool
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


@asynccontextmanager
async def open_writer(url: str, settings: Settings) -> AsyncIterator[Pool[Link]]:
    """The connections, each made when it is first needed."""
    engine = make_engine(url, settings, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    event.listen(engine.sync_engine, "begin", _begin)

    async def open_link() -> Link:
        connection = await engine.connect()
        fairy = await connection.get_raw_connection()
        return Link(connection, fairy.driver_connection)  # type: ignore[arg-type]  # it is asyncpg's

    pool = Pool(
        open_link,
        _close,
        size=settings.pool_size + settings.max_overflow,
        keep=settings.pool_size,
        timeout=settings.pool_timeout,
    )
    try:
        yield pool
    finally:
        await pool.close()
        await engine.dispose()


async def _close(link: Link) -> None:
    # Gracefully within two seconds, then not.
    await link.connection.invalidate()
    await link.connection.close()


def _begin(connection: Connection) -> None:
    adapted: Any = connection.connection.dbapi_connection
    adapted.run_async(begin)
