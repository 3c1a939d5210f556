"""What an error of the database driver tells; `kernel.data.sqlstate` decides whose fault it is."""

import asyncpg
from sqlalchemy.exc import DBAPIError, StatementError

ASYNCPG_ERRORS = asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
DRIVER_ERRORS = *ASYNCPG_ERRORS, OSError


class PoolTimeout(TimeoutError):
    """No connection came free within the pool's timeout; `is_connecting` if most of the pool was
    waiting for the server to accept it."""

    def __init__(self, *, is_connecting: bool) -> None:
        super().__init__("no connection is free")
        self.is_connecting = is_connecting


class ShareTimeout(PoolTimeout):
    """No connection came free within the share of the pool that one caller may use."""

    def __init__(self) -> None:
        super().__init__(is_connecting=False)


def driver_error(error: BaseException) -> BaseException:
    """asyncpg's error, unwrapped if SQLAlchemy has wrapped it."""
    # Not `driver_exception`: it raises for the dialect's own InvalidCachedStatementError.
    wrapped = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else None
    return wrapped or error


def claim_error(error: BaseException, statement: str) -> None:
    """Mark an error as one of the kernel's own connections, and remember its statement."""
    driver_error(error).__dict__.setdefault("kernel_statement", statement)


def statement_of(error: BaseException) -> str | None:
    """The text of the statement that failed, without values; None if it was not the kernel's."""
    if isinstance(error, StatementError) and _is_conversion_overflow(error):
        return error.statement
    statement: str | None = getattr(driver_error(error), "kernel_statement", None)
    return statement


def sqlstate(error: BaseException) -> str:
    """The five characters of the server's code, or an empty string."""
    return getattr(driver_error(error), "sqlstate", None) or ""


def is_silent(error: BaseException) -> bool:
    """Whether the server did not answer in time, not even with its own, shorter timeouts."""
    return isinstance(driver_error(error), TimeoutError) and not isinstance(error, PoolTimeout)


def is_unsendable(error: BaseException) -> bool:
    """Whether a value could not be encoded, so that the statement did not run."""
    is_encoding_error = isinstance(error, asyncpg.DataError) and error.__cause__ is not None
    return is_encoding_error or _is_conversion_overflow(error)


def _is_conversion_overflow(error: BaseException) -> bool:
    """Whether SQLAlchemy could not convert a value: a time that is after the year 9999 in UTC."""
    return isinstance(error, StatementError) and isinstance(error.orig, OverflowError)


def is_out_of_range(error: BaseException) -> bool:
    """Whether an unsendable value is a number or a character out of its type's range."""
    cause = error.__cause__
    has_range_message = any(phrase in str(cause) for phrase in ("value out of", "exponent is too"))
    return isinstance(cause, OverflowError | UnicodeError) or has_range_message
