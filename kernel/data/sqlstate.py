"""What the database refused, as an answer: SQLSTATE by SQLSTATE, constraint by constraint.

An error is the client's where a client can mend it, and a 500 where only the code can. What is no
error of one of the kernel's own connections is none of the database's, whatever its type.
"""

import re
from itertools import chain
from typing import NoReturn

import asyncpg
from sqlalchemy import Constraint, Index, Table
from sqlalchemy.orm.exc import StaleDataError
from sqlmodel import SQLModel

from kernel.driver_errors import (
    PoolTimeout,
    ShareTimeout,
    driver_error,
    is_out_of_range,
    is_unsendable,
    sqlstate,
    statement_of,
)
from kernel.errors import Conflict, DatabaseUnavailable, ServiceError, TooManyAtOnce, Unprocessable

OUT_OF_RANGE = "a value is out of range"
TOO_MANY_VALUES = "number of query arguments cannot exceed"
TRY_AGAIN = "somebody else changed the same data; try again"
# The reasons for a 503, which its `reason` tells apart.
UNREACHABLE, SLOW, NO_CONNECTION = "unreachable", "slow", "no_connection"
READING, CHANGING = "read_only", "schema_change"
UNAVAILABLE = {
    UNREACHABLE: "the database cannot be reached",
    SLOW: "the database took too long",
    NO_CONNECTION: "no database connection is free; try again",
    READING: "the database is read-only for now",
    CHANGING: "the database's schema is changing",
}

# By code (PostgreSQL manual, appendix A).
ANSWERS: dict[str, tuple[type[ServiceError], str]] = {
    "23505": (Conflict, "{fields} is already taken"),
    "23503": (Conflict, "{fields} refers to a row that is missing, or is still referred to"),
    "23P01": (Conflict, "{fields} overlaps with another row"),
    "23502": (Unprocessable, "{fields} is required"),
    "23514": (Unprocessable, "{fields} is not allowed"),
    "54000": (Unprocessable, OUT_OF_RANGE),
    "40001": (Conflict, TRY_AGAIN),
    "40P01": (Conflict, TRY_AGAIN),
    "55P03": (Conflict, TRY_AGAIN),
}
READ_ONLY, NO_RESOURCES, QUERY_CANCELED = "25006", "53", "57014"
LOCK_NOT_AVAILABLE = "55P03"
# With serialization failure and deadlock.
CONTENTION = {"40001", "40P01", LOCK_NOT_AVAILABLE}
NOT_NULL_VIOLATION, UNIQUE_VIOLATION, CHECK_VIOLATION = "23502", "23505", "23514"
FOREIGN_KEY_VIOLATION = "23503"
DIVISION_BY_ZERO, SYNTAX_ERROR = "22012", "42601"
# The server's functions in which 21000 is about two of the rows that a statement was given.
GIVEN_TWICE = {"ExecOnConflictUpdate", "ExecMergeMatched"}
INSERTED_COLUMNS = re.compile(r"\s*insert\s+into\s+[^()]+\(([^)]*)\)", re.IGNORECASE)
DELETION = re.compile(r"\s*delete\b", re.IGNORECASE)
WORD = re.compile(r"\w+")


def is_ours(error: BaseException) -> bool:
    """Whether one of the kernel's connections failed, or none could be had."""
    return statement_of(error) is not None or isinstance(error, PoolTimeout | StaleDataError)


def is_disconnect(error: BaseException) -> bool:
    """Whether the connection, rather than the statement, failed."""
    error = driver_error(error)
    if isinstance(error, asyncpg.InterfaceError):
        # The other errors of this kind are mistakes in how a connection is used.
        return "closed" in str(error)
    # InternalClientError: the server hung up, which asyncpg has half heard.
    lost = isinstance(error, ConnectionError | asyncpg.InternalClientError)
    return lost or sqlstate(error).startswith(("08", "57P0", READ_ONLY))


def is_answered(error: BaseException) -> bool:
    """Whether the server has said no, or was never asked: the connection is none the worse."""
    error = driver_error(error)
    said = isinstance(error, asyncpg.PostgresError) and not is_disconnect(error)
    return said or is_unsendable(error)


def is_too_slow(error: BaseException) -> bool:
    """Whether a limit of time has ended the statement: the server's or, if it is frozen, ours."""
    error = driver_error(error)
    is_late = isinstance(error, TimeoutError) and not isinstance(error, PoolTimeout)
    return is_late or sqlstate(error) == QUERY_CANCELED


def is_outdated(error: BaseException) -> bool:
    """Whether a migration has changed what the connection had remembered."""
    error = driver_error(error)
    # A type that was made anew has another number (XX000, "cache lookup failed for type 16397").
    is_gone = sqlstate(error) == "XX000" and "cache lookup failed" in str(error)
    kinds = asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError
    return is_gone or isinstance(error, kinds)


def is_retryable(error: BaseException) -> bool:
    """Whether the same unit of work may well succeed when it is run again from its start."""
    return is_outdated(error) or is_disconnect(error) or sqlstate(error) in CONTENTION


def unavailable(reason: str) -> DatabaseUnavailable:
    """The 503 for one of the reasons."""
    return DatabaseUnavailable(UNAVAILABLE[reason], reason=reason)


def unavailability_of_read(error: BaseException) -> str | None:
    """Why a read cannot be served now: nobody was in its way who changed something, and who tries
    to write on a connection for reads has made a mistake."""
    if sqlstate(error) in CONTENTION:
        return SLOW
    return None if sqlstate(error) == READ_ONLY else unavailability(error)


def translate(error: Exception, inputs: frozenset[str] | None = None) -> ServiceError | None:
    """The answer for an error of the database or its driver.

    `inputs` are the fields that the client may send, if that is known: what is wrong with another
    one is not the client's mistake. None, for a mistake of the code and for anybody else's error.
    """
    if not is_ours(error):
        return None
    if isinstance(error, StaleDataError):
        return Conflict(TRY_AGAIN)
    if answer := _unserved(error):
        return answer
    driver, code = driver_error(error), sqlstate(error)
    if code in ANSWERS:
        return _refusal(driver, code, inputs)
    if code == "21000" and getattr(driver, "server_source_function", None) in GIVEN_TWICE:
        return Unprocessable("a row is given twice")
    return Unprocessable(OUT_OF_RANGE) if _is_about_a_value(driver, code) else None


def _unserved(error: Exception) -> ServiceError | None:
    """The answer if there is nothing wrong with the request but when it came."""
    if isinstance(error, ShareTimeout):
        return TooManyAtOnce()
    reason = unavailability(error)
    return unavailable(reason) if reason else None


def unavailability(error: BaseException) -> str | None:
    """Why the database cannot serve now, if that is what the error says."""
    if isinstance(error, ShareTimeout):
        return None
    if isinstance(error, PoolTimeout):
        return UNREACHABLE if error.is_connecting else NO_CONNECTION
    if is_too_slow(error):
        return SLOW
    if sqlstate(error) == READ_ONLY:
        return READING
    if is_outdated(error):
        return CHANGING
    is_lost = is_disconnect(error) or sqlstate(error).startswith(NO_RESOURCES)
    return UNREACHABLE if is_lost else None


def _is_about_a_value(error: BaseException, code: str) -> bool:
    """Whether a value that was sent can be what is wrong: class 22 is about data, but a statement
    without parameters has none of a client's, and a division by zero is the statement's mistake."""
    if is_unsendable(error):
        # Of another type, it is the code's mistake; out of its type's range, it may well be sent.
        return is_out_of_range(error)
    is_of_data = code.startswith("22") and code != DIVISION_BY_ZERO
    is_of_text = code == SYNTAX_ERROR and "tsquery" in str(error)
    has_values = "$1" in (statement_of(error) or "")
    return ((is_of_data or is_of_text) and has_values) or TOO_MANY_VALUES in str(error)


def _refusal(error: BaseException, code: str, inputs: frozenset[str] | None) -> ServiceError | None:
    kind, message = ANSWERS[code]
    table = SQLModel.metadata.tables.get(getattr(error, "table_name", None) or "")
    fields = _fields(error, table)
    is_sent = inputs is None or bool(inputs.intersection(fields) if fields else inputs)
    if code == NOT_NULL_VIOLATION and not is_sent:
        return None
    if code == CHECK_VIOLATION and not inputs and inputs is not None:
        return None  # nothing was sent that it could be about
    if code == UNIQUE_VIOLATION and table is not None and _is_made(table, fields, error):
        return None
    words = message.format(fields=" and ".join(fields) or "a value")
    if code == FOREIGN_KEY_VIOLATION and DELETION.match(statement_of(error) or ""):
        words = f"rows of {getattr(error, 'table_name', None)} still refer to it"
    headers = {"Retry-After": "1"} if code in CONTENTION else None
    return kind(words, headers=headers, **({"fields": fields} if fields else {}))


def _is_made(table: Table, fields: list[str], error: BaseException) -> bool:
    """Whether the fields are the row's key, which the statement leaves to the database: then its
    sequence is behind the table."""
    inserted = INSERTED_COLUMNS.match(statement_of(error) or "")
    is_key = fields == [column.name for column in table.primary_key]
    return is_key and inserted is not None and not set(fields) & set(WORD.findall(inserted[1]))


def raise_answer(error: Exception) -> NoReturn:
    """Raise the answer for an error of the database, or the error itself if there is none."""
    if answer := translate(error):
        raise answer from error
    raise error


def _fields(error: BaseException, table: Table | None) -> list[str]:
    """The columns that the violated constraint is about, in the table's order."""
    if column := getattr(error, "column_name", None):
        return [column]
    if table is None:
        return []
    name = getattr(error, "constraint_name", None)
    rules: list[Constraint | Index] = [*table.constraints, *table.indexes]
    columns = [getattr(rule, "columns", ()) for rule in rules if rule.name == name]
    return [column.name for column in chain.from_iterable(columns)]
