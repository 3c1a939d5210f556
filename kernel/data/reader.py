"""`ReadPool`: queries on plain asyncpg connections that cannot write, one round trip each.

Statements are SQLModel `select(...)` objects with `bindparam`s, built once at module level and
compiled once to SQL. A query's values are passed by the bindparams' names, as asyncpg's own types.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
from pydantic import BaseModel
from sqlalchemy import ClauseElement

from kernel.data.driver import Connection
from kernel.data.outages import Outages
from kernel.data.pool import Pool
from kernel.data.snapshots import ATTEMPTS, Rows, Snapshot, raise_for_read
from kernel.data.sqlstate import (
    LOCK_NOT_AVAILABLE,
    NO_CONNECTION,
    READ_ONLY,
    is_disconnect,
    is_outdated,
    is_retryable,
    raise_answer,
)
from kernel.driver_errors import DRIVER_ERRORS, PoolTimeout, sqlstate
from kernel.fast.statements import bind_values, compile_statement, type_mistake

M = TypeVar("M", bound=BaseModel)

if TYPE_CHECKING:
    Record = asyncpg.Record


class ReadPool(Rows):
    """Connections that were started with `default_transaction_read_only=on`.

    Snapshots and streams have a few of their own: whoever reads a stream slowly holds a connection
    for that long.
    """

    def __init__(
        self,
        connections: Pool[Connection],
        streams: Pool[Connection],
        outages: Outages,
        patience: float,
    ) -> None:
        self._connections, self._streams, self._outages = connections, streams, outages
        self._patience = patience

    async def fetch(self, statement: ClauseElement, /, **values: Any) -> list["Record"]:
        """Run the statement.

        Raises:
            TypeError: a value is missing, of the wrong type, or for no parameter of the statement.
            Unavailable: no connection was free within the pool's timeout, or none can be had, or
                the statement took too long.
            ServiceError: the database refused, see `sqlstate.ANSWERS`.
        """
        sql, parameters = compile_statement(statement)
        arguments = bind_values(parameters, values)
        names = [*parameters]
        # A read is safe to repeat: on a new connection, or when a standby's conflict has gone.
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._run(sql, arguments, names)
            except DRIVER_ERRORS as error:
                if attempt == ATTEMPTS or not _may_be_repeated(error):
                    raise_for_read(error)
                if is_disconnect(error) or is_outdated(error):
                    # All of the pool is suspect: the server was restarted, or became a standby.
                    self._connections.expire()
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """Several reads of one state: a REPEATABLE READ transaction that cannot write.

        It holds a connection until the block ends, at most twice the statement timeout between two
        reads.
        """
        async with self.snapshot_on(await self.begin_snapshot()) as snapshot:
            yield snapshot

    @asynccontextmanager
    async def snapshot_on(self, connection: Connection) -> AsyncIterator[Snapshot]:
        """The snapshot that has begun on the connection, which is given back afterwards."""
        snapshot = Snapshot(connection, self.begin_snapshot, self._release_stream, self._patience)
        try:
            yield snapshot
        finally:
            await snapshot.end()

    async def stream(
        self, model: type[M], statement: ClauseElement, /, **values: Any
    ) -> AsyncIterator[M]:
        """The rows as DTOs, however many, for a `StreamingResponse`: memory stays flat."""
        async with self.snapshot() as snapshot:
            async for row in snapshot.stream(model, statement, **values):
                yield row

    def in_use(self) -> int:
        """How many connections run a query now."""
        return self._connections.in_use() + self._streams.in_use()

    async def _run(self, sql: str, arguments: list[Any], names: list[str]) -> list["Record"]:
        connection = await self._take(self._connections)
        try:
            records = await connection.run(sql, *arguments)
        except BaseException as error:
            await self._return(connection)
            if mistake := type_mistake(error, arguments, names):
                raise mistake from error
            raise
        if connection.has_traces:
            await self._return(connection)
        else:
            self._connections.give_back(connection)
        return records

    async def _return(self, connection: Connection) -> None:
        """Give a connection back, which may be lost or not as it was."""
        try:
            if connection.is_reusable and not connection.is_in_transaction():
                with suppress(*DRIVER_ERRORS):  # then it is broken, and closed
                    await connection.clean()
        finally:
            self._release(connection, self._connections)

    def _release(self, connection: Connection, pool: Pool[Connection]) -> None:
        if connection.is_outdated:
            pool.expire()  # the others are, too
        if not connection.is_reusable or connection.outermost or connection.is_in_transaction():
            pool.drop(connection)
        else:
            pool.give_back(connection)

    def _release_stream(self, connection: Connection) -> None:
        self._release(connection, self._streams)

    async def begin_snapshot(self) -> Connection:
        """A connection in a REPEATABLE READ transaction."""
        for attempt in range(1, ATTEMPTS + 1):
            connection = await self._take(self._streams)
            try:
                await connection.transaction(isolation="repeatable_read", readonly=True).start()
            except BaseException as error:
                self._streams.drop(connection)
                self._streams.expire()
                if not isinstance(error, Exception):
                    raise
                if attempt == ATTEMPTS or not is_disconnect(error):
                    raise_answer(error)
            else:
                return connection
        raise AssertionError("unreachable")

    async def _take(self, pool: Pool[Connection]) -> Connection:
        try:
            connection = await pool.take()
        except PoolTimeout as error:
            self._outages.note_failure(error, is_read=True)
            raise_answer(error)
        if self._outages.causes:
            self._outages.end(NO_CONNECTION)
        return connection


def _may_be_repeated(error: Exception) -> bool:
    return is_retryable(error) and sqlstate(error) not in {LOCK_NOT_AVAILABLE, READ_ONLY}
