"""`Reader`: queries on plain asyncpg connections that cannot write, one round trip each.

Statements are SQLModel `select(...)` objects with `bindparam`s, built once at module level and
compiled once to SQL. A query's values are passed by the bindparams' names, as asyncpg's own types.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import asyncpg
from fastapi import Depends, Request
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlmodel.ext.asyncio.session import AsyncSession

from features.kernel.context import current_context
from features.kernel.database import connect
from features.kernel.settings import Settings
from features.kernel.sqlstate import is_disconnect, translate

DRIVER_ERRORS = asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError
M = TypeVar("M", bound=BaseModel)
POSTGRES = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


if TYPE_CHECKING:
    PooledConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]


class Rows(ABC):
    """Where rows come from: the reader or, inside a unit of work, its session."""

    @abstractmethod
    async def fetch(
        self, statement: Select[*tuple[Any, ...]], **values: object
    ) -> list[dict[str, Any]]:
        """Run the statement with its bindparams' values; one dict for each row."""

    async def all(
        self, model: type[M], statement: Select[*tuple[Any, ...]], **values: object
    ) -> list[M]:
        """Every row, as the DTO."""
        return _reads_list(model)(await self.fetch(statement, **values))

    async def first(
        self, model: type[M], statement: Select[*tuple[Any, ...]], **values: object
    ) -> M | None:
        """The first row as the DTO, or None."""
        found = await self.fetch(statement, **values)
        return model.__pydantic_validator__.validate_python(found[0]) if found else None


class ReadPool(Rows):
    """A pool of connections that were started with `default_transaction_read_only=on`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        # Taken from the pool and not in use. To give each back after its query, and take it anew
        # for the next one, costs more than the query.
        self._idle: list[PooledConnection] = []
        self._waiting = 0

    async def fetch(
        self, statement: Select[*tuple[Any, ...]], **values: object
    ) -> list[dict[str, Any]]:
        """Run the statement.

        Raises:
            Unavailable: no connection was free within the pool's timeout, or none can be had.
            ServiceError: the database refused, see `sqlstate.ANSWERS`.
        """
        sql, own_values = compile_statement(statement)
        arguments = [values.get(name, own) for name, own in own_values.items()]
        try:
            try:
                return await self._run(sql, arguments)
            except DRIVER_ERRORS as error:
                if not is_disconnect(error):
                    raise
                # A read is safe to repeat. All of the pool is suspect: the server was restarted,
                # or became a standby.
                await self._pool.expire_connections()
                await self.release()
                return await self._run(sql, arguments)
        except DRIVER_ERRORS as error:
            if answer := translate(error):
                raise answer from error
            raise

    async def release(self) -> None:
        """Give the idle connections back to the pool, which closes those that have expired."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await self._pool.release(connection)

    async def _run(self, sql: str, arguments: list[Any]) -> list[dict[str, Any]]:
        connection = self._idle.pop() if self._idle else await self._acquire()
        started = time.perf_counter()
        try:
            records = await connection.fetch(sql, *arguments)
        except BaseException:
            # Whatever state it is in, the pool knows what to do: wait for a cancelled query, say.
            await self._pool.release(connection)
            raise
        if context := current_context():
            context.queries += 1
            context.database_time += time.perf_counter() - started
        if self._waiting:
            await self._pool.release(connection)
        else:
            self._idle.append(connection)
        return [dict(record) for record in records]

    async def _acquire(self) -> "PooledConnection":
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=self._timeout)
        finally:
            self._waiting -= 1


class SessionRows(Rows):
    """The same queries inside the unit of work, so that they see and guard what it writes."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def fetch(
        self, statement: Select[*tuple[Any, ...]], **values: object
    ) -> list[dict[str, Any]]:
        connection = await self._session.connection()
        result = await connection.execute(statement, values)
        return [dict(row) for row in result.mappings()]


@lru_cache(maxsize=1024)
def compile_statement(statement: Select[*tuple[Any, ...]]) -> tuple[str, dict[str, Any]]:
    """The SQL with `$1, $2, …`, and the values that the statement brings itself, in that order."""
    compiled = statement.compile(dialect=POSTGRES)
    return str(compiled), {name: compiled.params[name] for name in compiled.positiontup or ()}


@cache
def _reads_list(model: type[M]) -> Callable[[list[dict[str, Any]]], list[M]]:
    return TypeAdapter(list[model]).validator.validate_python  # type: ignore[valid-type]  # known at run time only


@asynccontextmanager
async def open_reader(url: str, settings: Settings, size: int) -> AsyncIterator[ReadPool]:
    """A pool of `size` connections at most, each made when it is first needed."""
    pool = asyncpg.create_pool(
        url,
        min_size=0,
        max_size=size,
        connect=partial(connect, settings=settings, read_only=True),
        init=_speak_json,
        # The default reset is a round trip; nothing here changes a connection's state.
        reset=_keep_state,
    )
    async with pool:
        reader = ReadPool(pool, settings.pool_timeout)
        try:
            yield reader
        finally:
            await reader.release()


async def _speak_json(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )


async def _keep_state(_: object) -> None: ...


async def get_reader(request: Request) -> ReadPool:
    """The service's reader."""
    reader: ReadPool = request.app.state.reader
    return reader


Reader = Annotated[ReadPool, Depends(get_reader)]
