"""An error as the log has it: its chain of causes, its tracebacks and its statement, but none of
the values that it was about; those are shown in development alone."""

import logging
import re
import traceback
from pathlib import Path

from asyncpg import PostgresError
from asyncpg.exceptions import ClientConfigurationError
from sqlalchemy.exc import InvalidRequestError, PendingRollbackError, StatementError

from kernel.driver_errors import PoolTimeout, driver_error, is_unsendable, sqlstate, statement_of
from kernel.errors import ServiceError

# Their messages are about code. Those of other errors may hold values: a key, a row, a password.
SAFE_TO_LOG = (
    ServiceError, AssertionError, AttributeError, ImportError, NameError, RuntimeError, TypeError,
    InvalidRequestError, PoolTimeout, ClientConfigurationError,
)  # fmt: skip
# So do the messages of these classes of SQLSTATE: connections, transactions, statements, limits,
# and a division by zero.
SAFE_SQLSTATES = (
    *("08", "22012", "25", "26", "28", "34", "3D", "40", "42501", "42703", "42704", "42803"),
    *("42804", "42883", "42P", "53", "55", "57", "XX"),
)
# Of a statement; other syntax errors are those of a value, such as a tsquery.
SYNTAX_ERROR = "syntax error at "
# DETAIL of these has the whole row.
ROW_SQLSTATES = ("23502", "23514")
STATEMENT_MAX_CHARACTERS = 2000
SUMMARY_MAX_CHARACTERS = 1000
TRACEBACK = "Traceback (most recent call last):"
# The type of an error, before its message.
FIRST_WORD = re.compile(r"^(?:Traceback \(most recent call last\):|[A-Za-z_][\w.]*(?=:|$))")


def message_of(record: logging.LogRecord, *, full: bool) -> str:
    """The record's message; if it is a traceback, as uvicorn logs a failed start, without its
    values, unless it is to be `full`."""
    message = record.getMessage()
    return without_values(message) if TRACEBACK in message and not full else message


def without_values(text: str) -> str:
    """A traceback that another program has formatted, without the messages of its errors."""
    lines = text.splitlines()
    kept = [line for line in lines if line[:1] == " " or FIRST_WORD.match(line)]
    return "\n".join(line if line[0] == " " else FIRST_WORD.findall(line)[0] for line in kept)


def describe(error: BaseException, *, full: bool = False) -> str:
    """The chain of an error's causes with their tracebacks, and its statement; unless it is to be
    `full`, without the values that it was about."""
    chain, seen = [], set[int]()
    link: BaseException | None = error
    refused: object = None
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        # The message about a value that SQLAlchemy could not process has the value in it.
        is_safe = full or link is not refused or isinstance(link, InvalidRequestError)
        summary = summarize(link, full=full) if is_safe else type(link).__qualname__
        chain.append("".join(traceback.format_tb(link.__traceback__)) + summary)
        refused = link.orig if isinstance(link, StatementError) else None
        if isinstance(link, BaseExceptionGroup):
            chain += [describe(part, full=full) for part in link.exceptions]
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    if statement := statement_of(error):
        chain.insert(0, f"statement: {statement[:STATEMENT_MAX_CHARACTERS]}")
    return "\n".join(reversed(chain))


def summarize(error: BaseException, *, full: bool = False) -> str:
    """An error in one line: its type, and of its message what holds no values, unless `full`."""
    name, driver = type(error).__qualname__, driver_error(error)
    mistakes = getattr(error, "errors", None)
    if callable(mistakes) and type(error).__module__.startswith(("pydantic_core", "fastapi")):
        # Never the input: it may be the whole body, password and all.
        members = ("loc", "type", "msg")
        shown = [{member: mistake[member] for member in members} for mistake in mistakes()]
        return f"{name}: {shown}" if full else name
    code = sqlstate(error)
    if isinstance(error, SAFE_TO_LOG) and not isinstance(error, PendingRollbackError):
        return f"{name}: {_message_of(error)}"
    if full and driver is error and code not in ROW_SQLSTATES:
        return f"{name}: {_message_of(error)}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    details = ("table_name", "column_name", "constraint_name")
    places = [getattr(driver, detail, None) for detail in details]
    argument = re.search(r"query argument \$\d+", str(driver)) if is_unsendable(driver) else None
    text = " ".join(str(word) for word in (name, code, *places, argument and argument[0]) if word)
    message = str(driver.args[0]) if driver.args and isinstance(driver, PostgresError) else ""
    is_safe = code.startswith(SAFE_SQLSTATES) or message.startswith(SYNTAX_ERROR)
    return f"{text}: {message}" if message and is_safe else text


def summarize_with_place(error: BaseException) -> str:
    """An error in one line that a table can hold, and where it was raised: in the service's own
    code, if that is in its traceback. Of a group of errors, it is the first one."""
    group, frames = "", traceback.extract_tb(error.__traceback__)
    while isinstance(error, BaseExceptionGroup):
        group, error = f"{type(error).__qualname__}: ", error.exceptions[0]
        frames = traceback.extract_tb(error.__traceback__) or frames  # it may not have been raised
    frame = ([each for each in frames if "/features/" in each.filename] or frames)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    told = f"{group}{summarize(error)[:SUMMARY_MAX_CHARACTERS]} at {place}"
    return told.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as mistake:  # noqa: BLE001  # an error that cannot be told is told all the same
        return f"its message has failed with {type(mistake).__qualname__}"
