"""The checks before a request reaches the app, and the Server-Timing header of its response."""

import time
from collections.abc import Mapping

from starlette.types import Scope

from kernel.context import RequestContext
from kernel.errors import TooManyAtOnce
from kernel.http.body_limits import TOO_LARGE, limit_of
from kernel.http.paths import UNCLEAN, is_scraped, is_unclean, names_one_host
from kernel.metrics import REFUSED

Refusal = tuple[int, str, Mapping[str, str] | None]


def refusal_of(
    scope: Scope, headers: Mapping[bytes, bytes], context: RequestContext, max_body_bytes: int
) -> Refusal | None:
    """The status, message and headers of the refusal, or None for a request that may go on."""
    length = headers.get(b"content-length", b"")
    size = int(length[:20]) if length.isdigit() else 0
    if not context.in_flight.count(context) and not is_scraped(scope):
        REFUSED.add(1, "in_flight")
        return 429, (error := TooManyAtOnce()).message, error.headers
    if size > max_body_bytes and size > limit_of(context.app, scope, max_body_bytes):
        return 413, TOO_LARGE, None
    if scope["http_version"] == "1.1" and not names_one_host(scope):
        return 400, "the request should have one Host header", None
    return (400, UNCLEAN, None) if is_unclean(scope) else None


def timing(context: RequestContext) -> str:
    """The Server-Timing header (W3C Server Timing §3), durations in milliseconds."""
    spent, database = time.perf_counter() - context.started, context.database_time
    queries = context.queries
    return f'db;dur={database * 1e3:.1f};desc="{queries} queries", app;dur={spent * 1e3:.1f}'
