"""What is known of the request under way; log lines, errors and timings read it from here."""

import os
import time
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class RequestContext:
    """One request: its id, what it has cost so far (durations in seconds), who it is for, and
    which row in which version its answer is about."""

    request_id: str = field(default_factory=lambda: os.urandom(16).hex())
    started: float = field(default_factory=time.perf_counter)
    queries: int = 0
    database_time: float = 0.0
    user_id: int | None = None
    row_id: int | None = None
    version: int | None = None


_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
enter_context = _context.set
leave_context = _context.reset


def current_context() -> RequestContext | None:
    """The request under way, or None outside of one (at start, in an operator's command)."""
    return _context.get()
