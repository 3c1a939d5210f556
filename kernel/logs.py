"""Logs: one line for each record, uvicorn's included, with the request's id; as JSON or, on a
terminal, as text.
"""

import json
import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, TextIO

from pydantic_core import from_json, to_json

from kernel.context import current_context
from kernel.terminal import ConsoleFormatter, shows_colours
from kernel.tracebacks import describe, message_of

LogFormat = Literal["console", "json"]
UNSHOWN = "a record cannot be shown"
WEBSOCKET_MESSAGES = ('"WebSocket %s"', "without completing handshake")


def _encode(line: dict[str, object]) -> str:
    """The line as JSON of ASCII only: U+2028 in a text can neither break nor forge a line. What
    JSON has not becomes text: NaN (RFC 8259 §6), and members that cannot be encoded."""
    try:
        text = to_json(line, fallback=str, inf_nan_mode="strings")
        return text.decode() if text.isascii() else json.dumps(from_json(text))
    except Exception:  # noqa: BLE001  # whatever a value's own methods raise: the line is written
        return json.dumps({name: _encodable(value) for name, value in line.items()})


def _encodable(value: object) -> object:
    """What JSON has of the value, or else a text."""
    with suppress(Exception):  # see above
        return from_json(to_json(value, fallback=str, inf_nan_mode="strings"))
    with suppress(Exception):
        return str(value)  # one with a lone surrogate, say
    return f"{type(value).__qualname__} that cannot be shown"


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; `extra={"fields": {...}}` adds members.

    With `full`, as in development, the messages of all errors are included, with their values.
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
    """The formatter of this form or, if that is None, of the one that suits the stream: "console"
    on a terminal, "json" in a pipe or a file."""
    if (form or ("console" if stream.isatty() else "json")) == "json":
        return JsonFormatter(full=full)
    return ConsoleFormatter(full=full, colours=shows_colours(stream))


def parents_formatter() -> logging.Formatter:
    """The formatter of uvicorn's parent process, which reads no settings (deploy/logging.json)."""
    chosen = os.environ.get("APP_LOG_FORMAT")
    forms: dict[str | None, LogFormat] = {"console": "console", "json": "json"}
    return formatter_for(sys.stderr, forms.get(chosen))


class _Lines(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            # One write; standard error is line-buffered, so it flushes by itself.
            self.stream.write(self.format(record) + self.terminator)
        except Exception:  # noqa: BLE001  # as every handler does
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        """Never raises: logging would print the error and the record's arguments, with values."""
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001  # whatever a value's own methods raise
            known = {name: getattr(record, name) for name in ("name", "levelname", "created")}
            fields = {"error": type(error).__qualname__, "place": f"{record.name}:{record.lineno}"}
            return super().format(logging.makeLogRecord(known | {"msg": UNSHOWN, "fields": fields}))


def _is_not_about_websockets(record: logging.LogRecord) -> bool:
    """Whether it is not one of uvicorn's lines about WebSockets: those have the query in them, and
    are an error for each refused handshake. The service writes its own line."""
    return not any(text in str(record.msg) for text in WEBSOCKET_MESSAGES)


def configure_logging(level: str, *, form: LogFormat | None = None, full: bool = False) -> None:
    """Send every logger's records to standard error, as `formatter_for` formats them.

    The service's own loggers and uvicorn's log from `level` on, libraries from WARNING on: some of
    them log headers, statements and bodies at DEBUG.
    """
    # No line shows these, so they are not looked up (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _Lines(sys.stderr)
    handler.set_name(__name__)
    handler.setFormatter(formatter_for(sys.stderr, form, full=full))
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if other.name != __name__]
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in ("features", "kernel", "service"):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("uvicorn").setLevel(max(logging.INFO, logging.getLevelName(level)))
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)  # uvicorn's, of which it is a part
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.error").addFilter(_is_not_about_websockets)
    # The service writes its own access line; without handlers uvicorn does not even format its.
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
