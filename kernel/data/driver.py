"""asyncpg's connection, which keeps track of its state."""

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
    """The default for `Connection.on_end`: do nothing."""


class Connection(PooledConnection):
    """asyncpg's connection, which tracks its statements, its transaction and what they leave."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # `under_way`: statements that were sent and have not ended. `is_broken`: one was
        # interrupted, so the state is unknown. `is_outdated`: a migration made one fail.
        self.under_way, self.is_broken, self.is_outdated = 0, False, False
        # `has_traces`: a setting or a lock may be left on the session. `is_lent`, `cursors`: code
        # outside the kernel may still hold the connection, itself or by SQLAlchemy's cursors.
        self.has_traces, self.is_lent, self.cursors = False, False, set[Any]()
        # `is_managed`: only `transaction()` begins and ends transactions. `is_place_scarce`: the
        # server has few free connections left.
        self.is_managed, self.is_read_only, self.is_place_scarce = False, False, False
        self.isolation: Isolation | None = None
        self.outermost: Transaction | None = None
        # `may_commit`: the present user may. `is_commit_sent`: COMMIT may have reached the server.
        # `on_end`: called at the end of the outermost transaction, with whether it was a commit.
        self.may_commit, self.is_commit_sent = True, False
        self.on_end: Callable[[bool], None] = ignore
        # Called before each statement.
        self.watcher: BeforeStatement | None = None
        # The statement under way, and since when. The server ends a transaction that is idle for
        # `patience` seconds.
        self.statement, self.started, self.last_used, self.patience = "", 0.0, 0.0, math.inf
        self.outages: Outages | None = None
        # Whether another server has become the primary.
        self.is_left: Callable[[], bool] = bool

    @property
    def is_reusable(self) -> bool:
        """Whether it may go back to the pool, once it is clean."""
        is_held = self.under_way or self.is_lent or self.cursors
        return not (is_held or self.is_broken or self.is_closed())

    def is_in_transaction(self) -> bool:
        """Whether it is open and the server has a transaction on it."""
        return not self.is_closed() and bool(super().is_in_transaction())

    def check_idle(self) -> None:
        """Raise RuntimeError if a statement is under way on it, or was interrupted."""
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
        """A transaction or, within one, a savepoint; SQLAlchemy's adapter calls this, too."""
        default = None if self.outermost else self.isolation
        return Transaction(self, isolation or default, readonly, deferrable)

    def begin_statement(self, sql: str) -> None:
        """Note that a statement is about to be sent, and what it may leave on the session.

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
                # Not unnamed: a pooler may send its two messages (Parse, Bind) to two servers.
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
        """Run statements, and return the status of the last; asyncpg sends BEGIN and COMMIT so.

        Raises:
            RuntimeError: COMMIT of a transaction that has failed, though the error was caught. The
                server answers it with ROLLBACK and no error (PostgreSQL manual, COMMIT).
        """
        if self.under_way:  # from `transaction()`, which counts it itself
            status: str = await super().execute(query, *args, timeout=timeout)
        else:
            if self.watcher is not None:
                await self.watcher(self, query)
            with self.watch(query):
                status = await super().execute(query, *args, timeout=timeout)
        if status == "ROLLBACK" and query.startswith("COMMIT"):
            raise RuntimeError("a statement of this transaction has failed: it cannot be committed")
        return status

    @contextmanager
    def watch(self, statement: str) -> Iterator[None]:
        """Track a statement that the block sends by itself."""
        self.begin_statement(statement)
        try:
            yield
        except BaseException as error:
            self.fail_statement(error, statement)
            raise
        self.end_statement()

    async def watched(self, statement: str, send: Callable[[], Awaitable[Any]]) -> None:
        """Track a statement of the kernel's own, which is timed but not counted as a query."""
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
        """Mark the error as this connection's, and update the connection's state from it."""
        # Outdated types and plans are fixed by a new connection. If BEGIN fails, asyncpg believes
        # all the same that there is a transaction, so that connection is not used again.
        if is_outdated(error):
            self.is_outdated = True
            self.outdate()
        is_refused = self.is_read_only and sqlstate(error) == READ_ONLY
        is_unharmed = (is_answered(error) or is_refused) and not self.is_outdated
        self.is_broken = self.is_broken or not is_unharmed or statement == "BEGIN"
        # It may have been prepared without a Sync message after it: until something else is sent,
        # the server keeps the locks on its tables, and statement_timeout runs on.
        self.has_traces = self.has_traces or is_unsendable(error)
        if isinstance(error, RuntimeError) or not self.is_managed:
            return
        was_idle = time.monotonic() - self.last_used > self.patience
        if was_idle and self.outermost is not None and self.is_closed():
            raise RuntimeError(LET_LIE) from error
        if not is_ours(error) and self.outages:
            self.outages.note_failure(error, is_read=self.is_read_only)
        claim_error(error, statement)

    async def clean(self) -> None:
        """Reset what statements have left on the session."""
        if self.has_traces:
            await self.watched(self.reset_query, partial(super().execute, self.reset_query))
            self.has_traces = False

    async def hang_up(self) -> None:
        """Close it gracefully; after two seconds, terminate it."""
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
            self.is_lent = True  # no reset undoes it, so it will be closed
        else:
            self.has_traces = True


note_lending(Connection)
