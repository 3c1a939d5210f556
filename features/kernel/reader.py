"""`Reader`: queries on plain asyncpg connections that cannot write, one round trip each.

Statements are SQLModel `select(...)` objects with `bindparam`s, built once at module level and
compiled once to SQL. A query's values are passed by the bindparams' names, as asyncpg's own types.
"""

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import asyncpg
from fastapi import Depends, Request
from pydantic import BaseModel
from sqlalchemy import ClauseElement
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from features.kernel.connections import connect
from features.kernel.context import current_context
from features.kernel.pool import Pool
from features.kernel.rows import read
from features.kernel.settings import Settings
from features.kernel.sqlstate import is_disconnect, raise_answer

DRIVER_ERRORS = asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError
M = TypeVar("M", bound=BaseModel)
POSTGRES = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


if TYPE_CHECKING:
    Record = asyncpg.Record
    Connection = asyncpg.Connection[Record]


class Rows(ABC):
    """Where rows come from: the reader or, inside a unit of work, its session."""

    @abstractmethod
    async def fetch(self, statement: ClauseElement, /, **values: Any) -> list["Record"]:
        """Run the statement with its bindparams' values."""

    async def all(self, model: type[M], statement: ClauseElement, /, **values: Any) -> list[M]:
        """Every row, as the DTO."""
        return read(model, await self.fetch(statement, **values))

    async def first(self, model: type[M], statement: ClauseElement, /, **values: Any) -> M | None:
        """The first row as the DTO, or None."""
        found = await self.fetch(statement, **values)
        return read(model, found[:1])[0] if found else None


class ReadPool(Rows):
    """Connections that were started with `default_transaction_read_only=on`."""

    def __init__(self, connections: "Pool[Connection]") -> None:
        self._connections = connections

    async def fetch(self, statement: ClauseElement, /, **values: Any) -> list["Record"]:
        """Run the statement.

        Raises:
            Unavailable: no connection was free within the pool's timeout, or none can be had.
            ServiceError: the database refused, see `sqlstate.ANSWERS`.
        """
        sql, own_values = compile_statement(statement)
        arguments = [values.get(name, own) for name, own in own_values.items()]
        try:
            return await self._run(sql, arguments)
        except DRIVER_ERRORS as error:
            if not is_disconnect(error):
                raise_answer(error)
        # A read is safe to repeat. All of the pool is suspect: the server was restarted, or became
        # a standby.
        self._connections.expire()
        try:
            return await self._run(sql, arguments)
        except DRIVER_ERRORS as error:
            raise_answer(error)

    def in_use(self) -> int:
        """How many connections run a query now."""
        return self._connections.in_use()

    async def _run(self, sql: str, arguments: list[Any]) -> list["Record"]:
        connection = await self._connections.take()
        started = time.perf_counter()
        try:
            records = await connection.fetch(sql, *arguments)
        except BaseException as error:
            # The statement failed; after most of these errors the connection is none the worse.
            if isinstance(error, asyncpg.PostgresError) and not is_disconnect(error):
                self._connections.give_back(connection)
            else:
                self._connections.drop(connection)
            raise
        self._connections.give_back(connection)
        count(started)
        return records


def count(started: float) -> None:
    """Note that a query has run since then."""
    if context := current_context():
        context.queries += 1
        context.database_time += time.perf_counter() - started


@lru_cache(maxsize=1024)
def compile_statement(statement: ClauseElement) -> tuple[str, dict[str, Any]]:
    """The SQL with `$1, $2, …`, and the values that the statement brings itself, in that order."""
    compiled: Any = statement.compile(dialect=POSTGRES)
    return str(compiled), {name: compiled.params[name] for name in compiled.positiontup or ()}


@asynccontextmanager
async def open_reader(url: str, settings: Settings, size: int) -> AsyncIterator[ReadPool]:
    """A reader with `size` connections at most, each made when it is first needed."""

    async def open_connection() -> "Connection":
        connection = await connect(url, settings, read_only=True)
        await _speak_json(connection)
        return connection

    timeout = settings.pool_timeout
    pool = Pool(open_connection, _close, size=size, keep=size, timeout=timeout)
    try:
        yield ReadPool(pool)
    finally:
        await pool.close()


async def _close(connection: "Connection") -> None:
    try:
        await connection.close(timeout=2)
    except (*DRIVER_ERRORS, asyncio.CancelledError):
        connection.terminate()


async def _speak_json(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )


async def get_reader(request: Request) -> ReadPool:
    """The service's reader."""
    reader: ReadPool = request.app.state.reader
    return reader


Reader = Annotated[ReadPool, Depends(get_reader)]
