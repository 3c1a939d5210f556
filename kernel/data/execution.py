"""Statements that SQLAlchemy executes on the kernel's connections, with asyncpg's errors.

Rows and errors are the same whether SQLAlchemy or asyncpg ran the statement.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ClauseElement, UpdateBase
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.exc import CompileError, DBAPIError, InvalidRequestError, StatementError
from sqlalchemy.util import greenlet_spawn

from kernel.context import count_time
from kernel.data.driver import Connection
from kernel.data.violations import OUT_OF_RANGE
from kernel.driver_errors import DRIVER_ERRORS, driver_error, is_unsendable
from kernel.errors import Unprocessable
from kernel.fast.parameters import bind_values, parameters_of
from kernel.fast.plain_types import POSTGRES
from kernel.fast.records import Record, Row, rows_of
from kernel.fast.statements import Plan, is_search, type_mistake

# Execution option: the names of the values, which are checked before the statement is sent.
VALUE_NAMES = "kernel_value_names"
Fetch = Callable[[int], Awaitable[Sequence[Record]]]


async def execute(
    raw: Connection, connection: SyncConnection, statement: Any, values: Mapping[str, Any]
) -> list[Row]:
    """Run the statement on SQLAlchemy's `connection`, which is over `raw`.

    Raises:
        TypeError: a value is missing, of the wrong type, or for no parameter of the statement.
        DRIVER_ERRORS: whatever asyncpg raises for it.
    """

    def run() -> list[Row]:
        # All rows at once: a server-side cursor would need a transaction.
        options = {VALUE_NAMES: frozenset(values), "yield_per": None, "stream_results": False}
        result = connection.execute(statement, values, execution_options=options)
        return rows_of(result.keys(), result) if result.returns_rows else []

    with asyncpgs_errors(raw, statement, values):
        return await greenlet_spawn(run)


async def open_result(
    raw: Connection, connection: SyncConnection, statement: Any, values: Mapping[str, Any]
) -> Fetch:
    """A function that fetches up to `count` more rows of the statement from a server-side cursor;
    see `execute`."""
    options = {VALUE_NAMES: frozenset(values), "yield_per": None, "stream_results": True}

    def run() -> Any:
        return connection.execute(statement, values, execution_options=options)

    with asyncpgs_errors(raw, statement, values):
        result = await greenlet_spawn(run)
    sql = raw.statement
    count_time(raw.started, sql)
    names = [*result.keys()] if result.returns_rows else []

    async def fetch(count: int) -> list[Row]:
        raw.begin_statement(sql)
        with asyncpgs_errors(raw, statement, values):  # the engine's events have tracked it
            rows = await greenlet_spawn(result.fetchmany, count) if names else []
        raw.end_statement()
        return rows_of(names, rows)

    return fetch


async def run_plan(raw: Connection, plan: Plan, arguments: list[Any]) -> Sequence[Record]:
    """Run the statement on asyncpg; see `execute`."""
    try:
        return plan.results(await raw.run(plan.sql, *arguments))
    except DRIVER_ERRORS as error:
        raise_mistake(error, plan, arguments)
        raise


async def open_cursor(raw: Connection, plan: Plan, arguments: list[Any]) -> Fetch:
    """A function that fetches up to `count` more rows on asyncpg; see `open_result`."""
    try:
        with raw.watch(plan.sql):
            if is_search(plan.sql):
                cursor = await (await raw.prepare(plan.sql)).cursor(*arguments)
            else:
                cursor = await raw.cursor(plan.sql, *arguments)
    except DRIVER_ERRORS as error:
        raise_mistake(error, plan, arguments)
        raise

    async def fetch(count: int) -> Sequence[Record]:
        with raw.watch(plan.sql):
            return plan.results(await cursor.fetch(count))

    return fetch


def raise_mistake(error: Exception, plan: Plan, arguments: list[Any]) -> None:
    """Raise TypeError with the parameter's name if asyncpg cannot send its value."""
    if mistake := type_mistake(error, dict(zip(plan.parameters, arguments, strict=True))):
        raise mistake from error


@contextmanager
def asyncpgs_errors(
    raw: Connection, statement: ClauseElement, values: Mapping[str, Any]
) -> Iterator[None]:
    """Raise asyncpg's error instead of SQLAlchemy's, or a TypeError about the values."""
    cursors = {*raw.cursors}
    try:
        yield
    except DBAPIError as error:
        driver = driver_error(error)
        parameters = _parameters(statement, values) if is_unsendable(driver) else {}
        if mistake := type_mistake(driver, parameters):
            raise mistake from driver
        raise driver from driver.__cause__
    except StatementError as error:
        if isinstance(error.orig, OverflowError):  # a datetime after the year 9999
            raise Unprocessable(OUT_OF_RANGE) from error
        if isinstance(error.orig, InvalidRequestError):
            _parameters(statement, values)  # raises TypeError with the missing names
            raise TypeError(error.orig.args[0]) from error
        # Its message may repeat the value, and so may its cause's.
        kind = type(error.orig).__name__
        raise TypeError(f"a value does not fit its type ({kind}): {error.statement}") from None
    except CompileError as error:
        if not values:
            raise
        raise TypeError(error.args[0]) from error  # "Unconsumed column names: ..."
    finally:
        raw.cursors &= cursors  # no other code has the cursors that were opened here


def _parameters(statement: ClauseElement, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by parameter, in the order of the SQL; empty if a parameter expands to several."""
    if isinstance(statement, UpdateBase):
        return {}
    compiled: Any = statement.compile(dialect=POSTGRES)
    if any(bind.expanding or bind.literal_execute for bind in compiled.binds.values()):
        return {}
    parameters = parameters_of(compiled)
    return dict(zip(parameters, bind_values(parameters, values), strict=True))
