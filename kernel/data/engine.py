"""SQLAlchemy's engine over the kernel's connections, which track its statements by events."""

import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import Engine, StaticPool, event
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.engine import AdaptedConnection, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_, greenlet_spawn

from kernel.data.driver import Connection
from kernel.data.execution import VALUE_NAMES
from kernel.data.links import Link
from kernel.data.outages import Outages
from kernel.data.refusals import ISOLATION_IS_SET_BEFORE, NO_ENGINE
from kernel.driver_errors import ASYNCPG_ERRORS, DRIVER_ERRORS
from kernel.fast.parameters import check_names
from kernel.fast.statements import is_search

_is_opening: ContextVar[bool] = ContextVar("is_opening", default=False)


def link_opener(
    connect: Callable[[], Awaitable[Connection]], outages: Outages, **options: Any
) -> Callable[[], Awaitable[Link]]:
    """A function that opens a link. All links share one engine, with its options and its cache of
    compiled statements; each connection is alone in a SQLAlchemy pool of its own."""

    engine = _make_engine(connect, options)

    def open_link() -> Link:
        pool = engine.pool.recreate()
        fairy = pool.connect()
        adapted: Any = fairy.dbapi_connection
        fairy.close()
        adapted.__class__ = _Adapted
        raw = _raw_of(adapted)
        raw.is_lent = False
        return Link(raw, engine, pool)

    async def open_() -> Link:
        token = _is_opening.set(True)
        try:
            link: Link = await greenlet_spawn(open_link)
        except (DBAPIError, *DRIVER_ERRORS) as error:
            raise outages.unreachable(error) from error
        finally:
            _is_opening.reset(token)
        return link

    return open_


def _make_engine(connect: Callable[[], Awaitable[Connection]], options: dict[str, Any]) -> Engine:
    async def open_connection(*_: Any, **__: Any) -> Connection:
        if not _is_opening.get():
            raise RuntimeError(NO_ENGINE)
        return await connect()

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=open_connection,
        hide_parameters=True,
        poolclass=StaticPool,
        **options,
    ).sync_engine
    dialect: Any = engine.dialect
    dialect.get_driver_connection = _lend
    event.listen(engine, "handle_error", _note_error)
    event.listen(engine, "before_cursor_execute", _before_statement)
    event.listen(engine, "after_cursor_execute", _after_statement)
    event.listen(engine, "set_connection_execution_options", _refuse_isolation)
    return engine


class _Adapted(AsyncAdapt_asyncpg_connection):
    """SQLAlchemy's adapter, which notes when code gets asyncpg's connection, and does not keep
    searches prepared (see `is_search`)."""

    __slots__ = ()

    def cursor(self, server_side: bool = False) -> Any:  # SQLAlchemy's
        cursor, raw = super().cursor(server_side), _raw_of(self)
        raw.cursors.add(cursor)
        return cursor

    async def _prepare(self, operation: str, invalidate_timestamp: float) -> Any:
        prepared = await super()._prepare(operation, invalidate_timestamp)  # type: ignore[no-untyped-call]  # SQLAlchemy's
        if is_search(operation):
            self._prepared_statement_cache.pop(operation)
        return prepared

    @property
    def driver_connection(self) -> Connection:
        return _lend(self)

    def run_async(self, fn: Callable[[Any], Awaitable[Any]]) -> Any:
        return await_(fn(_lend(self)))


def _raw_of(adapted: Any) -> Connection:
    # `_Adapted.driver_connection` would mark it as lent.
    raw: Connection = AdaptedConnection.driver_connection.__get__(adapted)
    return raw


def _lend(adapted: Any) -> Connection:
    raw = _raw_of(adapted)
    raw.is_lent = True
    return raw


def _raw(connection: SyncConnection) -> Connection:
    return _raw_of(connection.connection.dbapi_connection)


def _before_statement(
    connection: SyncConnection, cursor: Any, statement: str, _: Any, context: Any, __: bool
) -> None:
    raw, options = _raw(connection), context.execution_options
    if (names := options.get(VALUE_NAMES)) is not None:
        raw.cursors.discard(cursor)  # ours: no other code has it or a result that reads from it
        # SQLAlchemy names unnamed parameters with a leading %.
        check_names(names, [name for name in context.compiled.binds if name[:1] != "%"])
    if raw.watcher is not None:
        await_(raw.watcher(raw, statement))
    raw.begin_statement(statement)
    raw.cursors.discard(cursor)
    # A server-side cursor may be read after its unit of work has ended.
    raw.is_lent = raw.is_lent or (bool(options.get("stream_results")) and names is None)


def _after_statement(connection: SyncConnection, *_: Any) -> None:
    raw = _raw(connection)
    raw.end_statement()
    raw.started = time.perf_counter()  # a server-side cursor's first rows come after this event


def _note_error(context: ExceptionContext) -> None:
    context.invalidate_pool_on_disconnect = False  # the pools are ours
    error = context.original_exception
    if not isinstance(error, Exception):
        # Cancelled: its holder closes it in the background; this must not wait for it.
        context.is_disconnect = False
    if context.connection is None or context.connection.closed:
        return
    raw = _raw(context.connection)
    driver = error.__cause__ if isinstance(error.__cause__, DRIVER_ERRORS) else error
    failed = context.execution_context
    statement = context.statement or (failed and failed.statement) or ""
    if raw.under_way:
        raw.fail_statement(driver, statement)
    elif isinstance(driver, ASYNCPG_ERRORS):  # from reading a server-side cursor
        raw.note(driver, statement)
    # Otherwise the error is not the statement's: it came before it was sent, or after it ended.


def _refuse_isolation(_: SyncConnection, options: dict[str, Any]) -> None:
    if "isolation_level" in options:
        raise RuntimeError(ISOLATION_IS_SET_BEFORE)
