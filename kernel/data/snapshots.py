"""Rows, and reads that all see one state of them."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import asyncpg
from pydantic import BaseModel
from sqlalchemy import ClauseElement

from kernel.context import count_query
from kernel.data.driver import Connection
from kernel.data.refusals import SNAPSHOT_ENDED
from kernel.data.sqlstate import (
    READ_ONLY,
    is_outdated,
    raise_answer,
    unavailability_of_read,
    unavailable,
)
from kernel.driver_errors import DRIVER_ERRORS, sqlstate
from kernel.fast.rows import read
from kernel.fast.statements import bind_values, compile_statement, type_mistake

ATTEMPTS = 3
ROWS_AT_ONCE = 500
M = TypeVar("M", bound=BaseModel)

if TYPE_CHECKING:
    Record = asyncpg.Record


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


class Snapshot(Rows):
    """Reads that all see the database as it was at the first of them, on one connection, which is
    given to `release` when it is over, or when nobody has read for `patience` seconds. What the
    first read finds outdated by a migration is read on another one, which `begin` gives."""

    def __init__(
        self,
        connection: Connection,
        begin: Callable[[], Awaitable[Connection]],
        release: Callable[[Connection], None],
        patience: float,
    ) -> None:
        self._lease: Connection | None = connection
        self._begin, self._release, self._patience = begin, release, patience
        self._has_read, self._attempts = False, 0

    async def fetch(self, statement: ClauseElement, /, **values: Any) -> list["Record"]:
        """Run the statement; see `ReadPool.fetch`."""
        sql, parameters = compile_statement(statement)
        arguments = bind_values(parameters, values)
        while True:
            try:
                rows = await self._connection.run(sql, *arguments)
            except DRIVER_ERRORS as error:
                if mistake := type_mistake(error, arguments, [*parameters]):
                    raise mistake from error
                await self._begin_anew_or_raise(error)
            else:
                self._has_read = True
                return rows

    async def stream(
        self, model: type[M], statement: ClauseElement, /, **values: Any
    ) -> AsyncIterator[M]:
        """The rows as DTOs, however many, a few hundred in memory at a time."""
        sql, parameters = compile_statement(statement)
        arguments = bind_values(parameters, values)
        started = time.perf_counter()
        cursor = None
        while True:
            try:
                with self._connection.watch(sql):
                    cursor = cursor or await self._connection.cursor(sql, *arguments)
                    records = await cursor.fetch(ROWS_AT_ONCE)
            except DRIVER_ERRORS as error:
                if mistake := type_mistake(error, arguments, [*parameters]):
                    raise mistake from error
                await self._begin_anew_or_raise(error)
                cursor = None
                continue
            if not self._has_read:
                count_query(started)
            self._has_read = True
            with self._abandoned_after_a_while():
                for row in read(model, records):
                    yield row
            if len(records) < ROWS_AT_ONCE:
                return

    async def _begin_anew_or_raise(self, error: Exception) -> None:
        self._attempts += 1
        if self._has_read or self._attempts == ATTEMPTS or not is_outdated(error):
            raise_for_read(error)
        await self.end()
        self._lease = await self._begin()

    async def end(self) -> None:
        """Give the connection back as it was, or close it; nobody can use it any more.

        Whoever is cancelled is so at each await, and gives it back all the same.
        """
        connection, self._lease = self._lease, None
        if connection is None:
            return
        try:
            if connection.outermost and connection.is_reusable:
                with suppress(*DRIVER_ERRORS):  # then it is broken, and closed
                    await connection.outermost.rollback()
                    await connection.clean()
        finally:
            self._release(connection)

    @contextmanager
    def _abandoned_after_a_while(self) -> Iterator[None]:
        """The server ends a transaction that is idle; this ends who has it, and may never go on."""
        timer = asyncio.get_running_loop().call_later(self._patience, self._abandon)
        try:
            yield
        finally:
            timer.cancel()

    def _abandon(self) -> None:
        connection, self._lease = self._lease, None
        if connection is not None:
            connection.terminate()
            connection.is_broken = True
            self._release(connection)

    @property
    def _connection(self) -> Connection:
        if self._lease is None:
            raise RuntimeError(SNAPSHOT_ENDED)
        return self._lease


def raise_for_read(error: Exception) -> NoReturn:
    """The answer to a read that has failed: nobody was in its way who changed something."""
    if reason := unavailability_of_read(error):
        raise unavailable(reason) from error
    if sqlstate(error) == READ_ONLY:
        raise error
    raise_answer(error)
