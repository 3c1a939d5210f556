"""Logs as JSON, one line for each record, uvicorn's own included, with the request's id on it."""

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import TextIO

from asyncpg import PostgresError
from asyncpg.exceptions import ClientConfigurationError
from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy.exc import InvalidRequestError, PendingRollbackError, StatementError

from kernel.context import current_context
from kernel.driver_errors import PoolTimeout, driver_error, is_unsendable, sqlstate, statement_of
from kernel.errors import ServiceError

# Their messages speak of code. Those of other errors may hold values: a key, a row, a password.
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
# The statement's; what else is called a syntax error is a value's, as a tsquery's.
SYNTAX_ERROR = "syntax error at "
# DETAIL of these has the whole row.
ROW_SQLSTATES = ("23502", "23514")
STATEMENT_MAX_CHARACTERS = 2000
OF_WEBSOCKETS = ('"WebSocket %s"', "without completing handshake")
TRACEBACK = "Traceback (most recent call last):"
# The name of an error, in front of its message.
FIRST_WORD = re.compile(r"^(?:Traceback \(most recent call last\):|[A-Za-z_][\w.]*(?=:|$))")


def _encode(line: dict[str, object]) -> str:
    """The line as JSON of ASCII only: U+2028 in a text can neither break nor forge a line."""
    try:
        text = to_json(line, fallback=str)
    except PydanticSerializationError:  # a lone surrogate
        text = b"\xff"
    return text.decode() if text.isascii() else json.dumps(line, default=str)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; `extra={"fields": {...}}` adds members.

    With `full`, as in development, the messages of all errors are told, with the values in them.
    """

    def __init__(self, *, full: bool = False) -> None:
        super().__init__()
        self.full = full

    def format(self, record: logging.LogRecord) -> str:
        context = current_context()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
            "request_id": context and context.request_id,
        }
        if context and context.trace:
            line |= context.trace
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1]:
            line["exception"] = describe(record.exc_info[1], full=self.full)
        return _encode(line)

    def _message(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        # uvicorn's, of a start that has failed.
        return without_values(message) if TRACEBACK in message and not self.full else message


def without_values(text: str) -> str:
    """The traceback of an error, as another program has formatted it, without its messages."""
    lines = text.splitlines()
    known = [line for line in lines if line[:1] == " " or FIRST_WORD.match(line)]
    return "\n".join(line if line[0] == " " else FIRST_WORD.findall(line)[0] for line in known)


def describe(error: BaseException, *, full: bool = False) -> str:
    """The chain of an error's types, places and statements; unless it is to be `full`, without
    values that it was about."""
    chain, seen = [], set[int]()
    link: BaseException | None = error
    refused: object = None
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        # What is told of a value that SQLAlchemy could not process has the value in it.
        is_told = full or link is not refused or isinstance(link, InvalidRequestError)
        words = summarize(link, full=full) if is_told else type(link).__qualname__
        chain.append("".join(traceback.format_tb(link.__traceback__)) + words)
        refused = link.orig if isinstance(link, StatementError) else None
        if isinstance(link, BaseExceptionGroup):
            chain += [describe(part, full=full) for part in link.exceptions]
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    if statement := statement_of(error):
        chain.insert(0, f"statement: {statement[:STATEMENT_MAX_CHARACTERS]}")
    return "\n".join(reversed(chain))


def summarize(error: BaseException, *, full: bool = False) -> str:
    """An error in one line."""
    name, driver = type(error).__qualname__, driver_error(error)
    mistakes = getattr(error, "errors", None)
    if callable(mistakes) and type(error).__module__.startswith(("pydantic_core", "fastapi")):
        # Never the input: it may be the whole body, password and all.
        told = [{part: each[part] for part in ("loc", "type", "msg")} for each in mistakes()]
        return f"{name}: {told}" if full else name
    code = sqlstate(error)
    if isinstance(error, SAFE_TO_LOG) and not isinstance(error, PendingRollbackError):
        return f"{name}: {error}"
    if full and driver is error and code not in ROW_SQLSTATES:
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    details = ("table_name", "column_name", "constraint_name")
    known = [getattr(driver, detail, None) for detail in details]
    place = re.search(r"query argument \$\d+", str(driver)) if is_unsendable(driver) else None
    text = " ".join(str(word) for word in (name, code, *known, place and place[0]) if word)
    message = str(driver.args[0]) if driver.args and isinstance(driver, PostgresError) else ""
    is_safe = code.startswith(SAFE_SQLSTATES) or message.startswith(SYNTAX_ERROR)
    return f"{text}: {message}" if message and is_safe else text


class _Lines(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            # In one write; a stream of lines, as standard error is, flushes by itself.
            self.stream.write(self.format(record) + self.terminator)
        except Exception:  # noqa: BLE001  # as every handler does
            self.handleError(record)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether uvicorn says what the service's line of a WebSocket does not: its own have the query,
    and an error for each handshake that was answered."""
    return not any(words in str(record.msg) for words in OF_WEBSOCKETS)


def configure_logging(level: str, *, full: bool = False) -> None:
    """Send every logger's records to standard error through `JsonFormatter`.

    The service's own loggers and uvicorn's speak from `level` on, libraries from WARNING on: some
    of them log headers, statements and bodies at DEBUG.
    """
    # What no line shows need not be looked up (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _Lines(sys.stderr)
    handler.set_name(__name__)
    handler.setFormatter(JsonFormatter(full=full))
    root = logging.getLogger()
    root.handlers = [each for each in root.handlers if each.name != __name__]
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in ("features", "kernel", "service"):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("uvicorn").setLevel(max(logging.INFO, logging.getLevelName(level)))
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)  # uvicorn's, of which it is a part
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    # The service writes its own access line; without handlers uvicorn does not even format its.
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
