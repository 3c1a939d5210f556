"""Logs: one line for each record, uvicorn's own included, with the request's id on it.

As JSON, or for people who read them on a terminal.
"""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

from pydantic_core import PydanticSerializationError, to_json

from kernel.context import current_context
from kernel.terminal import ConsoleFormatter, shows_colours
from kernel.tracebacks import describe, message_of

LogFormat = Literal["console", "json"]
OF_WEBSOCKETS = ('"WebSocket %s"', "without completing handshake")


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
            "message": message_of(record, full=self.full),
            "request_id": context and context.request_id,
        }
        if context and context.trace:
            line |= context.trace
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1]:
            line["exception"] = describe(record.exc_info[1], full=self.full)
        return _encode(line)


def formatter_for(
    stream: TextIO, form: LogFormat | None, *, full: bool = False
) -> logging.Formatter:
    """The one of this form or, if none is chosen, what suits the stream: for people on a terminal,
    JSON in a pipe or a file."""
    if (form or ("console" if stream.isatty() else "json")) == "json":
        return JsonFormatter(full=full)
    return ConsoleFormatter(full=full, colours=shows_colours(stream))


def parents_formatter() -> logging.Formatter:
    """That of uvicorn's parent process, which reads no settings; deploy/logging.json names it."""
    chosen = os.environ.get("APP_LOG_FORMAT")
    forms: dict[str | None, LogFormat] = {"console": "console", "json": "json"}
    return formatter_for(sys.stderr, forms.get(chosen))


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


def configure_logging(level: str, *, form: LogFormat | None = None, full: bool = False) -> None:
    """Send every logger's records to standard error, in the form or in the one that suits it.

    The service's own loggers and uvicorn's speak from `level` on, libraries from WARNING on: some
    of them log headers, statements and bodies at DEBUG.
    """
    # What no line shows need not be looked up (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _Lines(sys.stderr)
    handler.set_name(__name__)
    handler.setFormatter(formatter_for(sys.stderr, form, full=full))
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
