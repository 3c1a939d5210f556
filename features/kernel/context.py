"""What is known of the request under way; log lines, errors and timings read it from here."""

import os
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from fastapi.telemetry import TelemetryConfig


@dataclass(slots=True)
class RequestContext:
    """One request: its id, what it has cost so far (durations in seconds), who it is for, which
    row in which version its answer is about, and the `Link` that the answer has."""

    request_id: str = field(default_factory=lambda: os.urandom(16).hex())
    started: float = field(default_factory=time.perf_counter)
    queries: int = 0
    database_time: float = 0.0
    user_id: int | None = None
    row_id: int | None = None
    version: int | None = None
    link: str | None = None


def telemetry() -> TelemetryConfig | None:
    """FastAPI's OpenTelemetry where an `OTEL_…` variable asks for it; it takes the SDK.

    Otherwise it is off, or it would look for its providers in each request.
    """
    asked = any(name.startswith(("OTEL_", "FASTAPI_OTEL_")) for name in os.environ)
    return None if asked else {"tracing": False, "metrics": False, "logs": False}


_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
enter_context = _context.set
leave_context = _context.reset


def current_context() -> RequestContext | None:
    """The request under way, or None outside of one (at start, in an operator's command)."""
    return _context.get()
