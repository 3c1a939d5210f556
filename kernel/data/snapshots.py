"""`Rows`, the interface of reads, and `Snapshot`, several reads of one state."""

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
    """What statements are read with: the reader or, inside a unit of work, its session."""

    @abstractmethod
    async def fetch(self, statement: ClauseElement, /, **values: Any) -> Sequence[Record]:
        """Run the statement with its bindparams' values. Its rows are like asyncpg's records (see
        `Record`)."""

    async def all(self, model: type[M], statement: ClauseElement, /, **values: Any) -> list[M]:
        """All rows, as DTOs.

        Raises:
            TypeError: the statement has two columns with the name of one of the DTO's fields.
        """
        check_columns(model, statement)
        return read(model, await self.fetch(statement, **values))

    async def first(self, model: type[M], statement: ClauseElement, /, **values: Any) -> M | None:
        """The first row as the DTO, or None; see `all`."""
        check_columns(model, statement)
        records = await self.fetch(statement, **values)
        return read(model, records[:1])[0] if records else None


class Snapshot(Rows):
    """Reads that all see the database as it was at the first of them, on one connection. That is
    passed to `release` at the end, or when nothing was read for `patience` seconds. If a migration
    has outdated it before the first read succeeds, `begin` opens another one."""

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
        """Any number of rows as DTOs, at most `ROWS_AT_ONCE` in memory at a time."""
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
            with self._abandoned_when_idle():
                for row in read(model, records):
                    yield row
            if len(records) < ROWS_AT_ONCE:
                return
            _ = self._link  # raises if it has ended meanwhile

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
        """End the snapshot: give the connection back clean, or close it.

        A cancelled task can be interrupted at each await here: `finally` releases it in any case.
        """
        link = self._leave()
        if link is None:
            return
        try:
            if link.raw.outermost and link.raw.is_reusable:
                with suppress(*DRIVER_ERRORS):  # then it is broken, and will be closed
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
    def _abandoned_when_idle(self) -> Iterator[None]:
        """End the snapshot if the consumer of the rows pauses for `patience` seconds, as the
        server ends its idle transaction."""
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
    """Raise the answer to a failed read; a conflict with writes is a 503 here, not a 409."""
    if reason := unavailability_of_read(error):
        raise unavailable(reason) from error
    if sqlstate(error) == READ_ONLY:
        raise error
    raise_answer(error)
