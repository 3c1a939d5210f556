"""asyncpg's connection, which knows what state it is in."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from kernel.context import count_query, count_time
from kernel.data.lending import note_lending
from kernel.data.outages import Outages
from kernel.data.refusals import BROKEN, BUSY, CONTROLLED, LET_LIE
from kernel.data.shared_sessions import PooledConnection, Record
from kernel.data.sqlstate import READ_ONLY, is_answered, is_ours, is_outdated
from kernel.data.traces import Trace, trace_of
from kernel.data.transactions import Transaction
from kernel.driver_errors import DRIVER_ERRORS, claim_error, is_unsendable, sqlstate
from kernel.fast.statements import is_search

Isolation = Literal["read_committed", "read_uncommitted", "repeatable_read", "serializable"]
BeforeStatement = Callable[["Connection", str], Awaitable[None]]


def ignore(_: bool) -> None:
    """Nobody is to be told."""


class Connection(PooledConnection):
    """asyncpg's connection, which knows what state it is in."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Statements that were sent and have not ended; whether one was cut off; whether one was
        # refused because of a migration.
        self.under_way, self.is_broken, self.is_outdated = 0, False, False
        # Whether a setting or a lock may be left on it, and whether somebody outside of the kernel
        # may hold it still: by himself, or by one of SQLAlchemy's cursors.
        self.has_traces, self.is_lent, self.cursors = False, False, set[Any]()
        # While it is managed, transactions are begun and ended by `transaction()` alone; whether
        # the server has few places left.
        self.is_managed, self.is_read_only, self.is_place_scarce = False, False, False
        self.isolation: Isolation | None = None
        self.outermost: Transaction | None = None
        # Whether who has it now may commit; whether COMMIT may have reached the server; who is to
        # be told of the end.
        self.may_commit, self.is_commit_sent = True, False
        self.on_end: Callable[[bool], None] = ignore
        # Who has something to do before a statement is sent.
        self.watcher: BeforeStatement | None = None
        # The statement under way, and since when; after `patience` seconds without one, the server
        # ends a transaction.
        self.statement, self.started, self.last_used, self.patience = "", 0.0, 0.0, math.inf
        self.outages: Outages | None = None
        # Whether the primary is another server by now.
        self.is_left: Callable[[], bool] = bool

    @property
    def is_reusable(self) -> bool:
        """Whether somebody else may have it, once it is clean."""
        is_held = self.under_way or self.is_lent or self.cursors
        return not (is_held or self.is_broken or self.is_closed())

    def is_in_transaction(self) -> bool:
        """Whether the server has a transaction on it, and it is still there."""
        return not self.is_closed() and bool(super().is_in_transaction())

    def check_idle(self) -> None:
        """Raise RuntimeError if a statement is under way on it, or was cut off."""
        if self.under_way:
            raise RuntimeError(BUSY)
        if self.is_broken and not self.is_closed():
            raise RuntimeError(BROKEN)

    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        readonly: bool = False,
        deferrable: bool = False,
    ) -> Transaction:
        """A transaction or, within one, a savepoint, which SQLAlchemy's adapter also asks for."""
        own = None if self.outermost else self.isolation
        return Transaction(self, isolation or own, readonly, deferrable)

    def begin_statement(self, sql: str) -> None:
        """Note that a statement is sent, and what it may leave.

        Raises:
            RuntimeError: another one is under way, or it would begin or end the transaction.
        """
        if self.under_way or self.is_broken:
            self.check_idle()
        if (trace := trace_of(sql)) is not Trace.NONE:
            self._note_trace(trace, sql)
        self.under_way += 1
        self.statement, self.started = sql, time.perf_counter()

    def end_statement(self) -> None:
        """Note that a statement has ended well, and count it."""
        self.under_way -= 1
        self.last_used = time.monotonic()
        count_query(self.started, self.statement)

    def fail_statement(self, error: BaseException, statement: str) -> None:
        """Note that a statement has failed, and count it."""
        self.under_way -= 1
        count_query(self.started, self.statement, type(error).__qualname__)
        self.note(error, statement)

    async def run(self, sql: str, *values: Any) -> list[Record]:
        """Run one statement, and count it; see `begin_statement`."""
        if self.watcher is not None:
            await self.watcher(self, sql)
        self.begin_statement(sql)
        try:
            if is_search(sql):
                # Not unnamed: a pooler may have another server for each of its two messages.
                records: list[Record] = await (await self.prepare(sql)).fetch(*values)
            else:
                text = self.text_of(sql) if self.is_shared else sql
                records = await super().fetch(text, *values)
        except BaseException as error:
            self.fail_statement(error, sql)
            raise
        self.end_statement()
        return records

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109  # asyncpg's
        """Run statements, and give the last one's answer; asyncpg sends BEGIN and COMMIT so.

        Raises:
            RuntimeError: the transaction had failed before its COMMIT, and somebody has caught the
                error. The server says no more to this than ROLLBACK (PostgreSQL manual, COMMIT).
        """
        if self.under_way:  # BEGIN, COMMIT and the like of `transaction()`, within its own watch
            status: str = await super().execute(query, *args, timeout=timeout)
        else:
            if self.watcher is not None:
                await self.watcher(self, query)
            with self.watch(query):
                status = await super().execute(query, *args, timeout=timeout)
        if status == "ROLLBACK" and query.startswith("COMMIT"):
            raise RuntimeError("this transaction has failed before, so it cannot be committed")
        return status

    @contextmanager
    def watch(self, statement: str) -> Iterator[None]:
        """Note what becomes of a statement that is sent in another way."""
        self.begin_statement(statement)
        try:
            yield
        except BaseException as error:
            self.fail_statement(error, statement)
            raise
        self.end_statement()

    async def watched(self, statement: str, send: Callable[[], Awaitable[Any]]) -> None:
        """Note what becomes of a statement of the kernel's own, which is no query."""
        self.under_way, started = self.under_way + 1, time.perf_counter()
        try:
            await send()
        except BaseException as error:
            self.under_way -= 1
            count_time(started, statement, type(error).__qualname__)
            self.note(error, statement)
            raise
        self.under_way, self.last_used = self.under_way - 1, time.monotonic()
        count_time(started, statement)

    def note(self, error: BaseException, statement: str) -> None:
        """Remember that the error is this connection's own, and what it says of its state."""
        # After a migration a fresh connection knows all types and plans; a transaction that did not
        # begin is one for asyncpg.
        if is_outdated(error):
            self.is_outdated = True
            self.outdate()
        is_refused = self.is_read_only and sqlstate(error) == READ_ONLY
        is_unharmed = (is_answered(error) or is_refused) and not self.is_outdated
        self.is_broken = self.is_broken or not is_unharmed or statement == "BEGIN"
        # It may have been prepared, with no Sync after it: until something else is sent, the server
        # keeps the locks on its tables, and its statement_timeout runs on.
        self.has_traces = self.has_traces or is_unsendable(error)
        if isinstance(error, RuntimeError) or not self.is_managed:
            return
        lay_idle = time.monotonic() - self.last_used > self.patience
        if lay_idle and self.outermost is not None and self.is_closed():
            raise RuntimeError(LET_LIE) from error
        if not is_ours(error) and self.outages:
            self.outages.note_failure(error, is_read=self.is_read_only)
        claim_error(error, statement)

    async def clean(self) -> None:
        """Take away what statements have left."""
        if self.has_traces:
            await self.watched(self.reset_query, partial(super().execute, self.reset_query))
            self.has_traces = False

    async def hang_up(self) -> None:
        """Close it gracefully within two seconds, then not."""
        try:
            await self.close(timeout=2)
        except (*DRIVER_ERRORS, asyncio.CancelledError):
            self.terminate()

    def _note_trace(self, trace: Trace, sql: str) -> None:
        self.check_session(sql)
        if trace is Trace.CONTROL:
            if self.is_managed:
                raise RuntimeError(CONTROLLED)
        elif trace is Trace.LASTING:
            self.is_lent = True  # no reset takes that away
        else:
            self.has_traces = True


note_lending(Connection)
