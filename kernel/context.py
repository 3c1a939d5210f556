"""The context of the current request, from which log lines, errors and timings read."""

import os
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

# Keys of the kernel's values in a request's ASGI scope. They have a prefix, since others use this
# scope, too: Starlette's SessionMiddleware has the key "session".
HEADER_NAMES = "kernel.header_names"
SESSION = "kernel.session"
PRINCIPAL = "kernel.principal"


@dataclass(slots=True)
class RequestContext:
    """One request, or the jobs of a process (`jobs_context`). Durations are in seconds."""

    app: Any = None
    request_id: str = field(default_factory=lambda: os.urandom(16).hex())
    started: float = field(default_factory=time.perf_counter)
    queries: int = 0  # how many have run so far
    database_time: float = 0.0
    waiting_time: float = 0.0  # for a connection of a pool
    slowest_time: float = 0.0
    slowest_statement: str | None = None  # without values
    attempts: int = 0  # how often its unit of work has begun
    error: str | None = None  # of its failure: the reason of a 503, or the type of the exception
    user_id: int | None = None  # the caller's account
    client: str | None = None  # the client's address
    route: str | None = None  # the path template of its operation, as mounted
    unmatched_path: str | None = None  # its own path, if it has no operation
    link: str | None = None  # the response's Link header
    holds_secret: bool = False  # whether a secret was seen in the response
    unit: Any = None  # the current unit of work
    in_flight: Any = None  # the InFlight that counts it
    counts_for: Hashable = None  # the caller for whom `in_flight` counts it
    deadline: Any = None  # when its response has to begin
    may_be_done: bool = False  # whether it is committed, or may be, without an idempotency key
    rate_limiter: Any = None
    credential: int | None = None  # a digest of its credential, if there is a rate limit
    limited_as: str | None = None  # the caller for whom the rate limit counts it
    quota: tuple[tuple[bytes, bytes], ...] = ()  # the response's RateLimit header fields
    trace: dict[str, str] | None = None  # the ids of its span
    on_statement: Callable[[str, float, str | None], None] | None = None

    @property
    def caller(self) -> Hashable:
        """Who sends the request: the account's id or, until that is known, the client's network."""
        return network_of(self.client or "") if self.user_id is None else self.user_id

    def spend(self, started: float, statement: str, error: str | None = None) -> None:
        """Add the statement's time since `started`, and keep it if it is the slowest."""
        seconds = time.perf_counter() - started
        if self.on_statement is not None:
            self.on_statement(statement, seconds, error)
        self.database_time += seconds
        if seconds > self.slowest_time:
            self.slowest_time, self.slowest_statement = seconds, statement

    def begin_attempt(self, unit: Any) -> None:
        """Reset what an earlier attempt has noted about the response."""
        self.unit, self.holds_secret, self.may_be_done = unit, False, False
        self.attempts += 1
        self.user_id = self.link = None


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """The network that counts as one client: a client may use any address of an IPv6 /64."""
    return str(ip_network(f"{address}/64", strict=False)) if ":" in address else address


def count_query(started: float, statement: str, error: str | None = None) -> None:
    """Count a query that began at `started`; `error` is the type of its failure, if any."""
    if context := _context.get():
        context.queries += 1
        context.spend(started, statement, error)


def count_time(started: float, statement: str, error: str | None = None) -> None:
    """Add the time since `started` of a statement that is no query, such as BEGIN or COMMIT."""
    if context := _context.get():
        context.spend(started, statement, error)


@contextmanager
def counting_wait() -> Iterator[None]:
    """Add the block's duration to the time that the request waits for a connection."""
    started = time.perf_counter()
    try:
        yield
    finally:
        if context := _context.get():
            context.waiting_time += time.perf_counter() - started


_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
# The names of the operation's query parameters, if a model declares some of them.
query_names: ContextVar[frozenset[str]] = ContextVar("query_names", default=frozenset())
enter_context = _context.set
leave_context = _context.reset


@contextmanager
def jobs_context(app: Any, request_id: str | None = None) -> Iterator[RequestContext]:
    """The context of jobs, with the id of the request that has enqueued one, if there is one. All
    jobs are one caller, so they use half of a pool's connections at most."""
    context = RequestContext(app, client="jobs")
    context.request_id = request_id or context.request_id
    token = enter_context(context)
    try:
        yield context
    finally:
        leave_context(token)


def current_context() -> RequestContext | None:
    """The request under way, or None outside of one (at start, in an operator's command)."""
    return _context.get()
