"""`WriteSession`: the unit of work of a write, a SQLAlchemy session that also uses plain asyncpg.

It connects and begins its transaction when it is first used. Queries and inserts of plain types go
straight to asyncpg, compiled once, as in `Reader`. All others, and changes of rows, go through
SQLAlchemy, on the same connection and in the same transaction. In a request, the boundary commits
and ends it; `open_session()` opens one for work beside a request or after it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

import asyncpg
from pydantic import BaseModel
from sqlalchemy import ClauseElement, Update, event, func
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel.ext.asyncio.session import AsyncSession

from kernel.data.driver import Connection
from kernel.data.execution import execute, run_plan
from kernel.data.models import Table
from kernel.data.orm import ROLLED_BACK, Ended, UnitConnection, UnitSession
from kernel.data.snapshots import Rows
from kernel.data.sqlstate import is_answered, is_ours, unavailability
from kernel.data.unit_of_work import UnitOfWork
from kernel.data.version_counter import counting_up
from kernel.data.versions import SeenVersions
from kernel.errors import NotFound, OutcomeUnknown
from kernel.fast.inserts import insert_plan, insert_statement, insert_values
from kernel.fast.records import Record
from kernel.fast.rows import read
from kernel.fast.statements import bind, plan_of

M = TypeVar("M", bound=BaseModel)
P = ParamSpec("P")


class Enqueueable(Protocol):
    """The part of a task that this layer uses; tasks are of a higher one."""

    def insert(
        self, arguments: dict[str, Any], run_at: datetime | None, key: str | None, *, replace: bool
    ) -> tuple[str, list[Any]]: ...

    def wake(self) -> None: ...


class WriteSession(AsyncSession, Rows):
    """The session of one unit of work. Uncommitted changes are rolled back at its end."""

    sync_session_class = UnitSession
    sync_session: UnitSession

    def __init__(self, unit: UnitOfWork) -> None:
        super().__init__(
            expire_on_commit=False,
            close_resets_only=False,
            join_transaction_mode="control_fully",
            info={"unit": unit},
        )
        self.unit = unit
        self.seen: SeenVersions | None = None

    async def fetch(self, statement: ClauseElement, /, **values: Any) -> Sequence[Record]:
        """Run the statement, with its bindparams' values. Its rows are like asyncpg's records (see
        `Record`).

        Raises:
            TypeError: a value is missing, of the wrong type, or for no parameter of the statement.
        """
        plain = bind(plan_of(statement), values)
        raw = await self._begin()
        if self.seen is not None:
            await self.seen.before_change(statement, values)
        if plain:
            records = await run_plan(raw, *plain)
        else:
            records = await execute(raw, await self.unit.join(), statement, values)
        if self.seen is not None:
            self.seen.note_records(statement, records)
        if isinstance(statement, Update):
            self.sync_session.written.add(getattr(statement.table, "name", ""))
        return records

    async def insert(self, table: type[Table], model: type[M], /, **values: Any) -> M:
        """Insert a row, and return it as the DTO, in one round trip (INSERT … RETURNING).

        Raises:
            TypeError: a value is for no column, or of the wrong type.
        """
        keyed = insert_values(table, values)
        plain = bind(insert_plan(table, model, frozenset(keyed)), keyed)
        raw = await self._begin()
        if plain:
            records = await run_plan(raw, *plain)
        else:
            statement = insert_statement(table, model).values(keyed)
            records = await execute(raw, await self.unit.join(), statement, {})
        return read(model, records)[0]

    async def enqueue(
        self,
        task: Enqueueable,
        /,
        *,
        run_at: datetime | None = None,
        key: str | None = None,
        replace: bool = False,
        **arguments: Any,
    ) -> int | None:
        """Enqueue a job that runs the task after this transaction's commit, or at `run_at` (with an
        offset from UTC). Returns the job's id.

        A task has at most one job with a `key` that has not ended. If there is one, `replace=True`
        restarts it with these arguments; otherwise it stays as it is, and None is returned.

        Raises:
            TypeError: an argument is unknown, missing or of the wrong type, or `run_at` is naive.
            ValueError: the arguments are longer than 16 MiB of JSON, the key is longer than 500
                characters or has a NUL, or `run_at` is not between the years 1970 and 9000.
        """
        sql, values = task.insert(arguments, run_at, key, replace=replace)
        jobs = await (await self._begin()).run(sql, *values)
        if run_at is None:
            self.after_commit(task.wake)
        return jobs[0]["id"] if jobs else None

    async def touch(self, row: Table | type[Table], key: Any = None) -> None:
        """Count a change of a row whose children have changed: add one to its version, and set
        `updated_at` to now. `touch(order)`, or `touch(Order, order_id)`.

        Raises:
            NotFound: the table has no row with this key.
        """
        if isinstance(row, type):
            loaded: Table | None = self.identity_map.get(self.identity_key(row, key))
            if loaded is None:
                if not await self.fetch(counting_up(row), key=key):
                    raise NotFound(row.__name__.lower(), key)
                return
            row = loaded
        self.add(row)
        row.updated_at = func.now()  # type: ignore[assignment]  # the database's clock
        await self.flush()

    async def connection(self, *args: Any, **options: Any) -> AsyncConnection:
        """SQLAlchemy's connection, in this transaction; it is closed with the unit of work."""
        connection = await super().connection(*args, **options)
        return UnitConnection(connection.engine, connection.sync_connection)

    @asynccontextmanager
    async def driver_connection(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """asyncpg's connection, in this transaction, for what only asyncpg can do, like COPY.

        Since the block could keep it, it is closed with the unit of work instead of reused.
        """
        raw = await self._begin()
        raw.is_lent = True
        yield raw

    def after_commit(self, callback: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call the function, async or plain, after the commit; in a request, after its answer.
        After a rollback or a dry run it is not called.

        An error in it is logged and changes nothing else, and a crash loses the call: for what must
        happen, enqueue a task.
        """
        savepoint = self.sync_session.get_nested_transaction()
        if savepoint is not None and not event.contains(self.sync_session, *ROLLED_BACK):
            event.listen(self.sync_session, *ROLLED_BACK)
        self.unit.pending.append((partial(callback, *args, **kwargs), savepoint))

    async def finish(self) -> None:
        """Flush and commit; for the owner of the unit of work, such as the request boundary.

        Raises:
            OutcomeUnknown: COMMIT was sent, and the server's answer did not come.
        """
        if self.in_transaction():
            await self.flush()
        was_owned = self.unit.let_commit(True)
        try:
            if self.in_transaction():
                await super().commit()
            await self.unit.commit()
        except Exception as error:
            if not self.unit.is_commit_sent or is_answered(error) or not is_ours(error):
                raise
            raise OutcomeUnknown(reason=unavailability(error)) from error
        finally:
            self.unit.let_commit(was_owned)

    async def rollback(self) -> None:
        self.unit.pending.clear()
        if self.in_transaction():
            await super().rollback()
        await self.unit.rollback()

    async def end(self) -> None:
        """End the session for good, and roll back what is not committed."""
        sync_session, self._proxied = self.sync_session, Ended()  # type: ignore[assignment]
        self.sync_session = self._proxied  # type: ignore[assignment]
        await self.unit.end(sync_session)

    async def _begin(self) -> Connection:
        """The connection, in the transaction and in SQLAlchemy's current savepoint."""
        if self.in_transaction():
            if self.sync_session.autoflush and (self.new or self.dirty or self.deleted):
                await self.flush()
            await super().connection()
        return await self.unit.begin()
