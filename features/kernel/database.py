"""`Session`: the unit of work of a write, a SQLAlchemy session that also speaks plain asyncpg.

It connects when it is first used, and its transaction begins then. Queries and inserts go straight
to asyncpg, compiled once, like those of `Reader`; changes of rows go through the ORM, on the same
connection and in the same transaction.
"""

import asyncio
import json
import time
from functools import cache
from typing import Annotated, Any, Self, TypeVar

import asyncpg
from fastapi import Depends, Request
from pydantic import BaseModel
from sqlalchemy import JSON, ClauseElement, Column, Connection, bindparam, insert
from sqlalchemy.util import await_
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.orm.session import Session as SyncSession

from features.kernel.models import Table
from features.kernel.pool import Pool
from features.kernel.reader import Rows, compile_statement, count
from features.kernel.rows import read
from features.kernel.writer import Link, begin, commit, rollback

M = TypeVar("M", bound=BaseModel)


class _LinkedSession(SyncSession):
    def get_bind(self, *_: Any, **__: Any) -> Connection:
        link: Link = await_(self.info["connect"]())
        return link.connection.sync_connection  # type: ignore[return-value]  # it is connected


class WriteSession(AsyncSession, Rows):
    """The unit of work of one request; what it has not committed is rolled back at its end."""

    sync_session_class = _LinkedSession

    def __init__(self, pool: Pool[Link]) -> None:
        super().__init__(expire_on_commit=False, info={"connect": self._connect})
        self._pool = pool
        self._link: Link | None = None

    async def fetch(self, statement: ClauseElement, /, **values: Any) -> list[asyncpg.Record]:
        """Run the statement, which sees what was flushed before."""
        sql, own_values = compile_statement(statement)
        return await self._run(sql, [values.get(name, own) for name, own in own_values.items()])

    async def insert(self, table: type[Table], model: type[M], /, **values: Any) -> M:
        """Insert a row, and give it back as the DTO, in one round trip (INSERT … RETURNING)."""
        sql, columns = _compile_insert(table, model, tuple(values))
        return read(model, await self._run(sql, [_value(each, values) for each in columns]))[0]

    async def commit(self) -> None:
        if self.in_transaction():
            await super().commit()
        if self._link:
            await commit(self._link.raw)

    async def rollback(self) -> None:
        if self.in_transaction():
            await super().rollback()
        if self._link:
            await rollback(self._link.raw)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        link = self._link
        if link and _was_cut_off(error):
            self._pool.drop(link)
        elif self.in_transaction() or (link and link.raw.is_in_transaction()):
            await asyncio.shield(asyncio.ensure_future(self._undo(link)))
        elif link:
            self._pool.give_back(link)

    async def _undo(self, link: Link | None) -> None:
        try:
            await self.rollback()
            await self.close()
        except Exception:  # noqa: BLE001  # lost, or cancelling a query: it is not to be used again
            if link:
                self._pool.drop(link)
        else:
            if link:
                self._pool.give_back(link)

    async def _run(self, sql: str, values: list[Any]) -> list[asyncpg.Record]:
        raw = (await self._connect()).raw
        await begin(raw)
        started = time.perf_counter()
        records = await raw.fetch(sql, *values)
        count(started)
        return records

    async def _connect(self) -> Link:
        if self._link is None:
            self._link = await self._pool.take()
        return self._link


def _was_cut_off(error: BaseException | None) -> bool:
    """Whether a query may be under way still, so that nobody knows what state it leaves."""
    while error is not None:
        if isinstance(error, TimeoutError) or not isinstance(error, Exception):
            return True
        error = error.__cause__ or error.__context__
    return False


@cache
def _compile_insert(
    table: type[Table], model: type[BaseModel], names: tuple[str, ...]
) -> tuple[str, list[Column[Any]]]:
    """The SQL, and the columns of its values in their order."""
    columns = table.__table__.c  # type: ignore[attr-defined]
    given = {name: bindparam(name, type_=columns[name].type) for name in names}
    answer = [columns[name] for name in model.model_fields if name in columns]
    sql, values = compile_statement(insert(table).values(given).returning(*answer))
    return sql, [columns[name] for name in values]


def _value(column: Column[Any], values: dict[str, Any]) -> Any:
    if column.name not in values:  # it has a default of Python's
        default: Any = column.default
        return default.arg(None) if default.is_callable else default.arg
    value = values[column.name]
    # On a connection of SQLAlchemy's, asyncpg takes JSON as text.
    return json.dumps(value) if isinstance(column.type, JSON) and value is not None else value


async def get_session(request: Request) -> WriteSession:
    """The session of the request's unit of work.

    Raises:
        RuntimeError: in a GET, which has none; a GET reads through `Reader`.
    """
    session: WriteSession | None = request.scope.get("session")
    if session is None:
        raise RuntimeError("a GET has no session: it reads through Reader and cannot write")
    return session


Session = Annotated[WriteSession, Depends(get_session)]
