"""What the database refused, as an answer: SQLSTATE by SQLSTATE, constraint by constraint."""

from itertools import chain
from typing import NoReturn

import asyncpg
from sqlalchemy import Constraint, Index
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError
from sqlmodel import SQLModel

from features.kernel.errors import Conflict, ServiceError, Timeout, Unavailable, Unprocessable

TRY_AGAIN = "somebody else changed the same data; try again"
UNAVAILABLE = "the database is unavailable"

# By code, or by the first characters of a class (PostgreSQL manual, appendix A).
ANSWERS: dict[str, tuple[type[ServiceError], str]] = {
    "23505": (Conflict, "{fields} is already taken"),
    "23503": (Conflict, "{fields} refers to a row that is missing, or is still referred to"),
    "23P01": (Conflict, "{fields} overlaps with another row"),
    "23502": (Unprocessable, "{fields} is required"),
    "23514": (Unprocessable, "{fields} is not allowed"),
    "22": (Unprocessable, "a value is out of range"),
    "40001": (Conflict, TRY_AGAIN),
    "40P01": (Conflict, TRY_AGAIN),
    "55P03": (Conflict, TRY_AGAIN),
    "42P01": (Unavailable, "the database's schema is behind"),
    "42703": (Unavailable, "the database's schema is behind"),
    "57014": (Timeout, "the database took too long"),
    "08": (Unavailable, UNAVAILABLE),
    "53": (Unavailable, UNAVAILABLE),
    "57P0": (Unavailable, UNAVAILABLE),
    "25006": (Unavailable, "the database is read-only for now"),
}
LOCK_NOT_AVAILABLE = "55P03"
# With serialization failure and deadlock.
CONTENTION = {"40001", "40P01", LOCK_NOT_AVAILABLE}
READ_ONLY = "25006"


def driver_error(error: BaseException) -> BaseException:
    """asyncpg's error, out of SQLAlchemy's wrapping where it has one."""
    # Not `driver_exception`: it raises for the dialect's own InvalidCachedStatementError.
    wrapped = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else None
    return wrapped or error


def sqlstate(error: BaseException) -> str:
    """The five characters of the server's code, or an empty string."""
    return getattr(driver_error(error), "sqlstate", None) or ""


def is_disconnect(error: BaseException) -> bool:
    """Whether the connection, rather than the statement, failed."""
    error = driver_error(error)
    if isinstance(error, asyncpg.InterfaceError):
        # A connection that was lost while it lay idle has gone back to its pool. The other errors
        # of this kind are mistakes in how a connection is used.
        return "closed" in str(error) or "released" in str(error)
    # InternalClientError: the server hung up, which asyncpg has half heard.
    lost = isinstance(error, ConnectionError | asyncpg.InternalClientError)
    return lost or sqlstate(error).startswith(("08", "57P0", READ_ONLY))


def is_retryable(error: BaseException) -> bool:
    """Whether the same unit of work may well succeed when it is run again from its start."""
    # A cached plan that a migration outdated fails once on each connection.
    outdated = isinstance(driver_error(error), asyncpg.InvalidCachedStatementError)
    return outdated or sqlstate(error) in CONTENTION


def translate(error: Exception) -> ServiceError | None:
    """The answer for an error of the database or its driver; None for any other error."""
    if isinstance(error, StaleDataError):
        return Conflict(TRY_AGAIN)
    if isinstance(error, PoolTimeoutError | TimeoutError):
        return Unavailable("too busy; try again")
    if isinstance(driver_error(error), asyncpg.InvalidCachedStatementError):
        return Unavailable("the database's schema is changing")
    code = sqlstate(error)
    for known in (code, code[:4], code[:2]):
        if known in ANSWERS:
            kind, message = ANSWERS[known]
            fields = _fields(driver_error(error))
            headers = {"Retry-After": "1"} if code in CONTENTION else None
            words = message.format(fields=" and ".join(fields) or "a value")
            extras = {"fields": fields} if fields else {}
            return kind(words, headers=headers, **extras)
    return Unavailable(UNAVAILABLE) if is_disconnect(error) else None


def raise_answer(error: Exception) -> NoReturn:
    """Raise the answer for an error of the database, or the error itself if there is none."""
    if answer := translate(error):
        raise answer from error
    raise error


def _fields(error: BaseException) -> list[str]:
    """The columns that the violated constraint is about, in the table's order."""
    if column := getattr(error, "column_name", None):
        return [column]
    table = SQLModel.metadata.tables.get(getattr(error, "table_name", None) or "")
    if table is None:
        return []
    name = getattr(error, "constraint_name", None)
    rules: list[Constraint | Index] = [*table.constraints, *table.indexes]
    columns = [getattr(rule, "columns", ()) for rule in rules if rule.name == name]
    return [column.name for column in chain.from_iterable(columns)]
