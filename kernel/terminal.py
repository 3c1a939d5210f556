"""Logs for a terminal: a line for each record, in colours where they are shown, and tracebacks on
lines of their own.

A client's text can neither move the cursor nor look like another record: control characters are
escaped, and all lines of a message but the first are indented.
"""

import logging
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TextIO

from kernel.context import current_context
from kernel.tracebacks import describe, message_of

# Select Graphic Rendition (ECMA-48 §8.3.117).
DIM, RED, GREEN, YELLOW, CYAN, BOLD_RED = "2", "31", "32", "33", "36", "1;31"
LEVELS = {"DEBUG": CYAN, "INFO": GREEN, "WARNING": YELLOW, "ERROR": RED, "CRITICAL": BOLD_RED}
STATUSES = {2: GREEN, 3: CYAN, 4: YELLOW, 5: RED}
REQUEST_ID_CHARACTERS = 8
INDENT = "    "
# The loggers whose names are left out.
OWN_LOGGERS = ("kernel", "uvicorn", "service")
# Members of a request's line that its beginning shows already, or that are of no use here.
SHOWN_MEMBERS = {"method", "route", "status", "ms", "db_ms", "queries", "client"}
# Values that are left out.
OMITTED_VALUES = {"wait_ms": (0.0,), "attempts": (0, 1)}


def shows_colours(stream: TextIO) -> bool:
    """Whether it is a terminal with colours, and its user wants them (https://no-color.org)."""
    is_wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return stream.isatty() and is_wanted


class ConsoleFormatter(logging.Formatter):
    """A record as a line of text; with `full`, errors are shown with the values in them."""

    def __init__(self, *, full: bool = False, colours: bool = False) -> None:
        super().__init__()
        self.full, self.colours = full, colours

    def format(self, record: logging.LogRecord) -> str:
        context, level = current_context(), record.levelname
        first, *others = self._text(record)
        time = datetime.fromtimestamp(record.created).astimezone()
        parts = [
            self._paint(time.isoformat(timespec="milliseconds")[11:23], DIM),
            self._paint(f"{level:<7}", LEVELS.get(level, RED)),
            first,
        ]
        if context:
            parts.append(self._paint(_plain(context.request_id[:REQUEST_ID_CHARACTERS]), DIM))
        if record.exc_info and record.exc_info[1]:
            others += describe(record.exc_info[1], full=self.full).splitlines()
        return "\n".join([" ".join(parts), *(INDENT + _plain(line) for line in others)])

    def _text(self, record: logging.LogRecord) -> list[str]:
        """The message's lines, the first of them with the record's members."""
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        if record.msg == "request" and "method" in fields:
            return [" ".join(self._request(fields))]
        if record.msg == "statement" and "sql" in fields:
            return [" ".join(self._statement(fields))]
        first, *others = message_of(record, full=self.full).splitlines() or [""]
        place = "" if record.name.split(".")[0] in OWN_LOGGERS else f" ({record.name})"
        return [" ".join([_plain(first + place), *self._members(fields, set())]), *others]

    def _request(self, fields: Mapping[str, Any]) -> list[str]:
        status, queries = fields["status"], fields["queries"]
        answer = str(status) if status else "no answer"
        duration = f"{fields['ms']} ms"
        if queries:
            noun = "query" if queries == 1 else "queries"
            duration += f" ({queries} {noun}, {fields['db_ms']} ms)"
        return [
            f"{fields['method']:<6} {fields['route'] or self._unmatched_path()}",
            self._paint(answer, STATUSES.get(status // 100, RED)),
            duration,
            *self._members(fields, SHOWN_MEMBERS),
        ]

    def _statement(self, fields: Mapping[str, Any]) -> list[str]:
        error = [self._paint(fields["error"], RED)] if fields["error"] else []
        return [f"{fields['ms']} ms", _plain(fields["sql"]), *error]

    def _unmatched_path(self) -> str:
        context = current_context()
        path = context.unmatched_path if context and self.full else None
        return "(no operation)" if path is None else f"{_plain(path)} (no operation)"

    def _members(self, fields: Mapping[str, Any], shown: set[str]) -> list[str]:
        return [
            self._paint(f"{name}=", DIM) + _plain(" ".join(str(value).split()))
            for name, value in fields.items()
            if name not in shown and value is not None and value not in OMITTED_VALUES.get(name, ())
        ]

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours else text


def _plain(text: str) -> str:
    """The text with its control characters escaped."""
    if text.isprintable():
        return text
    escaped = (char if char.isprintable() else char.encode("unicode_escape") for char in text)
    return "".join(char if isinstance(char, str) else char.decode() for char in escaped)
