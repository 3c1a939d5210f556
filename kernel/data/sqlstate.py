"""Errors of the database as answers, by SQLSTATE.

An error is the client's (4xx) if a client can correct it, and a 500 if only the code can. An error
that did not come from one of the kernel's connections is not translated, whatever its type.
"""

from typing import NoReturn

import asyncpg
from sqlalchemy.orm.exc import StaleDataError

from kernel.data.violations import ANSWERS, CONTENTION, OUT_OF_RANGE, TRY_AGAIN, refusal
from kernel.driver_errors import (
    PoolTimeout,
    ShareTimeout,
    driver_error,
    is_out_of_range,
    is_silent,
    is_unsendable,
    sqlstate,
    statement_of,
)
from kernel.errors import Conflict, DatabaseUnavailable, ServiceError, TooManyAtOnce, Unprocessable

TOO_MANY_VALUES = "number of query arguments cannot exceed"
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

READ_ONLY, NO_RESOURCES, QUERY_CANCELED = "25006", "53", "57014"
LOCK_NOT_AVAILABLE = "55P03"
DIVISION_BY_ZERO, SYNTAX_ERROR = "22012", "42601"
# The server's functions where 21000 means that two of the statement's input rows are for one row.
GIVEN_TWICE = {"ExecOnConflictUpdate", "ExecMergeMatched"}


def is_ours(error: BaseException) -> bool:
    """Whether the error is of one of the kernel's connections, or of opening or waiting for one."""
    return statement_of(error) is not None or isinstance(error, PoolTimeout | StaleDataError)


def is_disconnect(error: BaseException) -> bool:
    """Whether the connection, rather than the statement, failed."""
    error = driver_error(error)
    if isinstance(error, asyncpg.InterfaceError):
        # The other errors of this kind are mistakes in how a connection is used.
        return "closed" in str(error)
    # InternalClientError: the server closed the connection in the middle of a message.
    lost = isinstance(error, ConnectionError | asyncpg.InternalClientError)
    return lost or sqlstate(error).startswith(("08", "57P0", READ_ONLY))


def is_suspect(error: BaseException) -> bool:
    """Whether the other connections of the pool may be unusable, too."""
    return is_disconnect(error) or is_outdated(error) or is_silent(error)


def is_answered(error: BaseException) -> bool:
    """Whether the server answered with an error, or was not asked: the connection still works."""
    error = driver_error(error)
    is_refused = isinstance(error, asyncpg.PostgresError) and not is_disconnect(error)
    return is_refused or is_unsendable(error)


def is_too_slow(error: BaseException) -> bool:
    """Whether a timeout has ended the statement: the server's or, if that is frozen, ours."""
    return is_silent(error) or sqlstate(error) == QUERY_CANCELED


def is_outdated(error: BaseException) -> bool:
    """Whether a migration has outdated the connection's cached types or plans."""
    error = driver_error(error)
    # A type that was created anew has another OID (XX000, "cache lookup failed for type 16397").
    is_gone = sqlstate(error) == "XX000" and "cache lookup failed" in str(error)
    kinds = asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError
    return is_gone or isinstance(error, kinds)


def is_retryable(error: BaseException) -> bool:
    """Whether the unit of work may succeed if it is run again from its start."""
    return is_outdated(error) or is_disconnect(error) or sqlstate(error) in CONTENTION


def unavailable(reason: str) -> DatabaseUnavailable:
    """The 503 for one of the reasons."""
    return DatabaseUnavailable(UNAVAILABLE[reason], reason=reason)


def unavailability_of_read(error: BaseException) -> str | None:
    """Why a read cannot be served now, or None. A conflict with writes counts as SLOW; a statement
    that tries to write on a read-only connection is the code's mistake, so None."""
    if sqlstate(error) in CONTENTION:
        return SLOW
    return None if sqlstate(error) == READ_ONLY else unavailability(error)


def translate(error: Exception, inputs: frozenset[str] | None = None) -> ServiceError | None:
    """The answer for an error of the database or its driver.

    `inputs` are the fields that the client may send, if known: an error about another field is not
    the client's. None if the mistake is the code's, or the error not the database's.
    """
    if not is_ours(error):
        return None
    if isinstance(error, StaleDataError):
        return Conflict(TRY_AGAIN)
    if answer := _not_now(error):
        return answer
    driver, code = driver_error(error), sqlstate(error)
    if code in ANSWERS:
        return refusal(driver, code, inputs)
    if code == "21000" and getattr(driver, "server_source_function", None) in GIVEN_TWICE:
        return Unprocessable("a row is there twice")
    return Unprocessable(OUT_OF_RANGE) if _is_about_a_value(driver, code) else None


def _not_now(error: Exception) -> ServiceError | None:
    """The 429 or 503 if the same request may succeed at another time."""
    if isinstance(error, ShareTimeout):
        return TooManyAtOnce()
    reason = unavailability(error)
    return unavailable(reason) if reason else None


def unavailability(error: BaseException) -> str | None:
    """Why the database cannot serve now (a key of UNAVAILABLE), or None for another error."""
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
    """Whether a value that a client sent can be the cause: class 22 is about data, but a statement
    without parameters has no client's value, and a division by zero is the statement's mistake."""
    if is_unsendable(error):
        # A value of another type is the code's mistake; one out of range may be the client's.
        return is_out_of_range(error)
    is_of_data = code.startswith("22") and code != DIVISION_BY_ZERO
    is_of_text = code == SYNTAX_ERROR and "tsquery" in str(error)
    has_values = "$1" in (statement_of(error) or "")
    return ((is_of_data or is_of_text) and has_values) or TOO_MANY_VALUES in str(error)


def raise_answer(error: Exception) -> NoReturn:
    """Raise the answer for an error of the database, or the error itself if there is none."""
    if answer := translate(error):
        raise answer from error
    raise error
