"""What is known of the request under way; log lines, errors and timings read it from here."""

import os
import time
from collections.abc import Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network
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
    secret, the unit of work under way, and for whom it counts among the requests in flight."""

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
    in_flight: Any = None
    counts_for: Hashable = None

    @property
    def caller(self) -> Hashable:
        """Whose request it is, as far as that is known: an account's, or an address's."""
        return network_of(self.client or "") if self.user_id is None else self.user_id

    def begin_attempt(self, unit: Any) -> None:
        """Forget what an earlier attempt has said of its answer."""
        self.unit, self.holds_secret = unit, False
        self.user_id = self.link = None


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """What a client has to itself: an IPv6 client has a whole /64 to choose its address from."""
    return str(ip_network(f"{address}/64", strict=False)) if ":" in address else address


def count_query(started: float) -> None:
    """Note that a query has run since then."""
    if context := current_context():
        context.queries += 1
        context.database_time += time.perf_counter() - started


_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
# What the operation's parameters in the query are called, if some of them are a model's.
query_names: ContextVar[frozenset[str]] = ContextVar("query_names", default=frozenset())
enter_context = _context.set
leave_context = _context.reset


def current_context() -> RequestContext | None:
    """The request under way, or None outside of one (at start, in an operator's command)."""
    return _context.get()
