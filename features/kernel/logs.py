"""Logs as JSON, one line for each record, uvicorn's own included, with the request's id on it."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import TextIO

from pydantic_core import PydanticSerializationError, to_json

from features.kernel.context import current_context
from features.kernel.errors import ServiceError
from features.kernel.sqlstate import driver_error, sqlstate

# Their messages speak of code. Those of other errors may hold values: a key, a row, a password.
PLAIN_SPOKEN = (
    ServiceError, AssertionError, AttributeError, ImportError, NameError, RuntimeError, TypeError,
)  # fmt: skip


def _encode(line: dict[str, object]) -> str:
    """The line as JSON of ASCII only: U+2028 in a text can neither break nor forge a line."""
    try:
        text = to_json(line, fallback=str)
    except PydanticSerializationError:  # a lone surrogate
        text = b"\xff"
    return text.decode() if text.isascii() else json.dumps(line, default=str)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; `extra={"fields": {...}}` adds members."""

    def format(self, record: logging.LogRecord) -> str:
        context = current_context()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": context and context.request_id,
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1]:
            line["exception"] = describe(record.exc_info[1])
        return _encode(line)


def describe(error: BaseException) -> str:
    """The chain of an error's types and places, without values that it was about."""
    chain = []
    link: BaseException | None = error
    while link is not None:
        chain.append("".join(traceback.format_tb(link.__traceback__)) + _summary(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\n".join(reversed(chain))


def _summary(error: BaseException) -> str:
    name = type(error).__qualname__
    if isinstance(error, PLAIN_SPOKEN):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    details = ("table_name", "column_name", "constraint_name")
    known = [getattr(driver_error(error), detail, None) for detail in details]
    return " ".join(str(word) for word in (name, sqlstate(error), *known) if word)


class _Lines(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            # In one write; a stream of lines, as standard error is, flushes by itself.
            self.stream.write(self.format(record) + self.terminator)
        except Exception:  # noqa: BLE001  # as every handler does
            self.handleError(record)


def configure_logging(level: str) -> None:
    """Send every logger's records to standard error through `JsonFormatter`.

    The service's own loggers and uvicorn's speak from `level` on, libraries from WARNING on: some
    of them log headers, statements and bodies at DEBUG.
    """
    # What no line shows need not be looked up (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _Lines(sys.stderr)
    handler.set_name(__name__)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [each for each in root.handlers if each.name != __name__]
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("features").setLevel(level)
    logging.getLogger("uvicorn").setLevel(max(logging.INFO, logging.getLevelName(level)))
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    # The service writes its own access line; without handlers uvicorn does not even format its.
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
