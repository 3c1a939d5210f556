"""The text of an error in the log: its chain of causes, with tracebacks, and its statement. The
values that it was about are shown only in development."""

import logging
import re
import traceback
from pathlib import Path

from asyncpg import PostgresError
from asyncpg.exceptions import ClientConfigurationError
from sqlalchemy.exc import InvalidRequestError, PendingRollbackError, StatementError

from kernel.driver_errors import PoolTimeout, driver_error, is_unsendable, sqlstate, statement_of
from kernel.errors import ServiceError

# Their messages are about code; those of other errors may hold values: a key, a row, a password.
SAFE_TO_LOG = (
    ServiceError, AssertionError, AttributeError, ImportError, NameError, RuntimeError, TypeError,
    InvalidRequestError, PoolTimeout, ClientConfigurationError,
)  # fmt: skip
# The messages of these classes of SQLSTATE are about code, too: connections, transactions,
# statements, limits, and a division by zero.
SAFE_SQLSTATES = (
    *("08", "22012", "25", "26", "28", "34", "3D", "40", "42501", "42703", "42704", "42803"),
    *("42804", "42883", "42P", "53", "55", "57", "XX"),
)
# So are those of a statement's syntax errors; others are about a value, such as a tsquery.
SYNTAX_ERROR = "syntax error at "
# The DETAIL of these has the whole row.
ROW_SQLSTATES = ("23502", "23514")
STATEMENT_MAX_CHARACTERS = 2000
SUMMARY_MAX_CHARACTERS = 1000
TRACEBACK = "Traceback (most recent call last):"
# What a group of errors has before its lines, and the type of an error, before its message.
MARGIN, FIRST_WORD = re.compile(r"^ *[|+] ?"), re.compile(r"^[A-Za-z_][\w.]*(?=:|$)")


def message_of(record: logging.LogRecord, *, full: bool) -> str:
    """The record's message. If it has a traceback, as when uvicorn logs a failed start, the errors'
    messages are left out, unless `full`."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001  # logging would print the arguments: they may be values
        message = f"{record.msg} (its arguments do not fit)"
    return without_values(message) if TRACEBACK in message and not full else message


def without_values(text: str) -> str:
    """A formatted traceback without the messages of its errors, whose lines may be like others."""
    kept, is_frame = list[str](), False
    for line in text.splitlines():
        bare = MARGIN.sub("", line)
        is_frame, was_frame = bare.endswith(TRACEBACK) or (is_frame and bare[:1] == " "), is_frame
        kept += [line] if is_frame else FIRST_WORD.findall(bare) if was_frame else []
    return "\n".join(kept)


def describe(error: BaseException, *, full: bool = False) -> str:
    """The chain of an error's causes with their tracebacks, and its statement. Values are left out,
    unless `full`."""
    return _describe(error, set(), full=full)


def _describe(error: BaseException, seen: set[int], *, full: bool) -> str:
    """Those of the errors that have not been `seen`: one of a group, raised again, has that group
    as its context."""
    chain = list[str]()
    cause: BaseException | None = error
    refused: object = None
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        # The message about a value that SQLAlchemy could not process has the value in it.
        is_safe = full or cause is not refused or isinstance(cause, InvalidRequestError)
        summary = summarize(cause, full=full) if is_safe else type(cause).__qualname__
        chain.append("".join(traceback.format_tb(cause.__traceback__)) + summary)
        refused = cause.orig if isinstance(cause, StatementError) else None
        if isinstance(cause, BaseExceptionGroup):
            parts = [part for part in cause.exceptions if id(part) not in seen]
            chain += [_describe(part, seen, full=full) for part in parts]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    if statement := statement_of(error):
        chain.insert(0, f"statement: {statement[:STATEMENT_MAX_CHARACTERS]}")
    return "\n".join(reversed(chain))


def summarize(error: BaseException, *, full: bool = False) -> str:
    """An error in one line: its type, and its message if that cannot hold values, or if `full`."""
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
    """An error in one line that a text column can store, with the place where it was raised: the
    last frame in `features/`, if there is one. Of a group of errors, it is the first one."""
    group, frames = "", traceback.extract_tb(error.__traceback__)
    while isinstance(error, BaseExceptionGroup):
        group, error = f"{type(error).__qualname__}: ", error.exceptions[0]
        frames = traceback.extract_tb(error.__traceback__) or frames  # it may not have been raised
    text = f"{group}{summarize(error)[:SUMMARY_MAX_CHARACTERS]}"
    if frames:  # an error in a group may have been made and not raised
        frame = ([frame for frame in frames if "/features/" in frame.filename] or frames)[-1]
        text += f" at {Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as mistake:  # noqa: BLE001  # its __str__ may raise anything
        return f"its message has failed with {type(mistake).__qualname__}"
