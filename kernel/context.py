"""What is known of the request under way; log lines, errors and timings read it from here."""

import os
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
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
    """One request: the app that it came to, its id, what it has cost so far (durations in seconds;
    `slowest_statement` is without values), how often its unit of work was begun, what its failure
    was, who it is for, from which address, the path of its operation as that is mounted, or its own
    if there is none, the `Link` that the answer has, whether it was seen to hold a secret, the unit
    of work under way, for whom it counts among those in flight, until when its answer has to begin,
    whether its work is committed, or may be, and no key keeps it from being done again, and of the
    rate limit, if there is one: a digest of its credential, for whom it counts, and fields that
    tell what is left."""

    app: Any = None
    request_id: str = field(default_factory=lambda: os.urandom(16).hex())
    started: float = field(default_factory=time.perf_counter)
    queries: int = 0
    database_time: float = 0.0
    waiting_time: float = 0.0  # for a connection of a pool
    slowest_time: float = 0.0
    slowest_statement: str | None = None
    attempts: int = 0
    error: str | None = None
    user_id: int | None = None
    client: str | None = None
    route: str | None = None
    unmatched_path: str | None = None
    link: str | None = None
    holds_secret: bool = False
    unit: Any = None
    in_flight: Any = None
    counts_for: Hashable = None
    deadline: Any = None
    may_be_done: bool = False
    rate_limiter: Any = None
    credential: int | None = None
    limited_as: str | None = None
    quota: tuple[tuple[bytes, bytes], ...] = ()
    trace: dict[str, str] | None = None  # the ids of its span
    on_statement: Callable[[str, float, str | None], None] | None = None

    @property
    def caller(self) -> Hashable:
        """Whose request it is, as far as that is known: an account's, or an address's."""
        return network_of(self.client or "") if self.user_id is None else self.user_id

    def spend(self, started: float, statement: str, error: str | None = None) -> None:
        """Count the time since then as the statement's."""
        seconds = time.perf_counter() - started
        if self.on_statement is not None:
            self.on_statement(statement, seconds, error)
        self.database_time += seconds
        if seconds > self.slowest_time:
            self.slowest_time, self.slowest_statement = seconds, statement

    def begin_attempt(self, unit: Any) -> None:
        """Forget what an earlier attempt has said of its answer."""
        self.unit, self.holds_secret, self.may_be_done = unit, False, False
        self.attempts += 1
        self.user_id = self.link = None


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """What a client has to itself: an IPv6 client has a whole /64 to choose its address from."""
    return str(ip_network(f"{address}/64", strict=False)) if ":" in address else address


def count_query(started: float, statement: str, error: str | None = None) -> None:
    """Note that a query has run since then, well or with an error of this type."""
    if context := _context.get():
        context.queries += 1
        context.spend(started, statement, error)


def count_time(started: float, statement: str, error: str | None = None) -> None:
    """Note what ended since then and is no query: BEGIN and COMMIT, say."""
    if context := _context.get():
        context.spend(started, statement, error)


@contextmanager
def counting_wait() -> Iterator[None]:
    """Note that a connection is waited for within the block."""
    started = time.perf_counter()
    try:
        yield
    finally:
        if context := _context.get():
            context.waiting_time += time.perf_counter() - started


_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
# What the operation's parameters in the query are called, if some of them are a model's.
query_names: ContextVar[frozenset[str]] = ContextVar("query_names", default=frozenset())
enter_context = _context.set
leave_context = _context.reset


@contextmanager
def jobs_context(app: Any, request_id: str | None = None) -> Iterator[RequestContext]:
    """The context of jobs, of which a request may have enqueued one. They are one caller, who has
    half of a pool's connections at most."""
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
