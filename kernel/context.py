"""What is known of the request under way; log lines, errors and timings read it from here."""

import os
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

# Where the kernel keeps what it knows of a request, in its ASGI scope. Names of its own: "session",
# say, is where Starlette's SessionMiddleware keeps its.
HEADER_NAMES = "kernel.header_names"
SESSION = "kernel.session"
PRINCIPAL = "kernel.principal"


@dataclass(slots=True)
class RequestContext:
    """One request: the app that it came to, its id, what it has cost so far (durations in seconds),
    who it is for, from which address, the `Link` that the answer has, whether it was seen to hold a
    secret, and the unit of work under way."""

    app: Any = None
    request_id: str = field(default_factory=lambda: os.urandom(16).hex())
    started: float = field(default_factory=time.perf_counter)
    queries: int = 0
    database_time: float = 0.0
    user_id: int | None = None
    client: str | None = None
    link: str | None = None
    holds_secret: bool = False
    unit: Any = None

    def begin_attempt(self, unit: Any) -> None:
        """Forget what an earlier attempt has said of its answer."""
        self.unit, self.holds_secret = unit, False
        self.user_id = self.link = None


def count_query(started: float) -> None:
    """Note that a query has run since then."""
    if context := current_context():
        context.queries += 1
        context.database_time += time.perf_counter() - started


_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
enter_context = _context.set
leave_context = _context.reset


def current_context() -> RequestContext | None:
    """The request under way, or None outside of one (at start, in an operator's command)."""
    return _context.get()
