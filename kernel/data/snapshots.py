"""Rows, and reads that all see one state of them."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel
from sqlalchemy import ClauseElement
from sqlalchemy import Connection as SyncConnection

from kernel.data.execution import Fetch, execute, open_cursor, open_result, run_plan
from kernel.data.links import Link
from kernel.data.refusals import SNAPSHOT_ENDED
from kernel.data.sqlstate import (
    READ_ONLY,
    is_outdated,
    raise_answer,
    unavailability_of_read,
    unavailable,
)
from kernel.driver_errors import DRIVER_ERRORS, sqlstate
from kernel.fast.columns import check_columns
from kernel.fast.records import Record
from kernel.fast.rows import read
from kernel.fast.statements import bind, plan_of

ATTEMPTS = 3
ROWS_AT_ONCE = 500
M = TypeVar("M", bound=BaseModel)


class Rows(ABC):
    """Where rows come from: the reader or, inside a unit of work, its session."""

    @abstractmethod
    async def fetch(self, statement: ClauseElement, /, **values: Any) -> Sequence[Record]:
        """Run the statement with its bindparams' values. Its rows have the form of asyncpg's
        records."""

    async def all(self, model: type[M], statement: ClauseElement, /, **values: Any) -> list[M]:
        """Every row, as the DTO.

        Raises:
            TypeError: the statement has two columns with a name that the DTO takes.
        """
        check_columns(model, statement)
        return read(model, await self.fetch(statement, **values))

    async def first(self, model: type[M], statement: ClauseElement, /, **values: Any) -> M | None:
        """The first row as the DTO, or None; see `all`."""
        check_columns(model, statement)
        found = await self.fetch(statement, **values)
        return read(model, found[:1])[0] if found else None


class Snapshot(Rows):
    """Reads that all see the database as it was at the first of them, on one connection, which is
    given to `release` when it is over, or when nobody has read for `patience` seconds. What the
    first read finds outdated by a migration is read on another one, which `begin` gives."""

    def __init__(
        self,
        link: Link,
        begin: Callable[[], Awaitable[Link]],
        release: Callable[[Link], None],
        patience: float,
    ) -> None:
        self._lease: Link | None = link
        self._joined: SyncConnection | None = None
        self._begin, self._release, self._patience = begin, release, patience
        self._has_read, self._attempts = False, 0

    async def fetch(self, statement: ClauseElement, /, **values: Any) -> Sequence[Record]:
        """Run the statement; see `ReadPool.fetch`."""
        while True:
            plain = bind(plan_of(statement), values)
            try:
                if plain:
                    records = await run_plan(self._link.raw, *plain)
                else:
                    records = await execute(self._link.raw, self._join(), statement, values)
            except DRIVER_ERRORS as error:
                await self._begin_anew_or_raise(error)
            else:
                self._has_read = True
                return records

    async def stream(
        self, model: type[M], statement: ClauseElement, /, **values: Any
    ) -> AsyncIterator[M]:
        """The rows as DTOs, however many, a few hundred in memory at a time."""
        check_columns(model, statement)
        fetch_more = None
        while True:
            try:
                fetch_more = fetch_more or await self._open(statement, values)
                records = await fetch_more(ROWS_AT_ONCE)
            except DRIVER_ERRORS as error:
                await self._begin_anew_or_raise(error)
                fetch_more = None
                continue
            self._has_read = True
            with self._abandoned_after_a_while():
                for row in read(model, records):
                    yield row
            if len(records) < ROWS_AT_ONCE:
                return
            _ = self._link  # or it has ended meanwhile

    async def _open(self, statement: ClauseElement, values: dict[str, Any]) -> Fetch:
        plain = bind(plan_of(statement), values)
        if plain:
            return await open_cursor(self._link.raw, *plain)
        return await open_result(self._link.raw, self._join(), statement, values)

    def _join(self) -> SyncConnection:
        self._joined = self._joined or self._link.connect()
        return self._joined

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
        link = self._leave()
        if link is None:
            return
        try:
            if link.raw.outermost and link.raw.is_reusable:
                with suppress(*DRIVER_ERRORS):  # then it is broken, and closed
                    await link.raw.outermost.rollback()
                    await link.raw.clean()
        finally:
            self._release(link)

    def _leave(self) -> Link | None:
        link, self._lease, joined, self._joined = self._lease, None, self._joined, None
        if joined is not None:
            joined.close()
        return link

    @contextmanager
    def _abandoned_after_a_while(self) -> Iterator[None]:
        """The server ends a transaction that is idle; this ends who has it, and may never go on."""
        timer = asyncio.get_running_loop().call_later(self._patience, self._abandon)
        try:
            yield
        finally:
            timer.cancel()

    def _abandon(self) -> None:
        if (link := self._leave()) is not None:
            link.raw.terminate()
            link.raw.is_broken = True
            self._release(link)

    @property
    def _link(self) -> Link:
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
