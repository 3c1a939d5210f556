"""Whether a request is let in at all, and the line that the log has of it."""

import logging
import time
from collections.abc import Mapping

from starlette.types import Scope

from kernel.context import HEADER_NAMES, RequestContext
from kernel.errors import TooManyAtOnce
from kernel.http.paths import UNCLEAN, is_scraped, is_unclean
from kernel.metrics import REFUSED, Cost, count_request

Refusal = tuple[int, str, Mapping[str, str] | None]
logger = logging.getLogger("kernel.http.middleware")  # which its line has always had


def refusal_of(
    scope: Scope, headers: Mapping[bytes, bytes], context: RequestContext, max_body_bytes: int
) -> Refusal | None:
    """Why it goes no further: a status, a message and headers."""
    length = headers.get(b"content-length", b"")
    if not context.in_flight.count(context) and not is_scraped(scope):
        REFUSED.add(1, "in_flight")
        return 429, (error := TooManyAtOnce()).message, error.headers
    if length.isdigit() and int(length[:20]) > max_body_bytes:
        return 413, "the body is too large", None
    if scope["http_version"] == "1.1" and not _names_one_host(scope):
        return 400, "Host should be there, once", None
    return (400, UNCLEAN, None) if is_unclean(scope) else None


def _names_one_host(scope: Scope) -> bool:
    """RFC 9112 §3.2."""
    if len(scope["headers"]) == len(scope[HEADER_NAMES]):
        return b"host" in scope[HEADER_NAMES]
    return [name for name, _ in scope["headers"]].count(b"host") == 1


def timing(context: RequestContext) -> str:
    """The Server-Timing header (W3C Server Timing §3), durations in milliseconds."""
    spent, database = time.perf_counter() - context.started, context.database_time
    queries = context.queries
    return f'db;dur={database * 1e3:.1f};desc="{queries} queries", app;dur={spent * 1e3:.1f}'


def count(context: RequestContext, method: str, route: str | None, status: int) -> None:
    """Count the request in the metrics."""
    spent = time.perf_counter() - context.started
    count_request(method, route, status, Cost(spent, context.queries, context.database_time))


def log_request(context: RequestContext, method: str, route: str | None, status: int) -> None:
    """The request's line."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "method": method,
        "route": route,
        "status": status,
        "ms": round((time.perf_counter() - context.started) * 1e3, 1),
        "queries": context.queries,
        "user_id": context.user_id,
        "client": context.client,
    }
    # Not logger.info(), which looks through the stack for its caller.
    record = logging.LogRecord(logger.name, logging.INFO, "", 0, "request", None, None)
    record.fields = fields
    logger.handle(record)
