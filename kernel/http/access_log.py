"""What the log says of a request that is over; docs/production.md has the members' meaning."""

from typing import Any

from starlette.types import Scope

from kernel.context import RequestContext, current_context
from kernel.driver_errors import driver_error
from kernel.errors import ServiceError
from kernel.logs import STATEMENT_MAX_CHARACTERS


def note_error(error: BaseException) -> None:
    """Remember what has failed: the `reason` of a 503, or the type of an error, which is its cause
    if the answer was raised from one."""
    if context := current_context():
        reason = error.extras.get("reason") if isinstance(error, ServiceError) else None
        cause = driver_error(error.__cause__ or error)
        context.error = reason if isinstance(reason, str) else type(cause).__qualname__


def request_fields(
    context: RequestContext, scope: Scope, method: str, status: int, ended: float
) -> dict[str, Any]:
    """The members of a request's line."""
    return {
        "method": method,
        "route": getattr(scope.get("route"), "path_format", None),
        "status": status,
        "ms": round((ended - context.started) * 1e3, 1),
        "db_ms": round(context.database_time * 1e3, 1),
        "wait_ms": round(context.waiting_time * 1e3, 1),
        "queries": context.queries,
        "attempts": context.attempts,
        "error": context.error,
        "user_id": context.user_id,
        "client": context.client,
    }


def slow_fields(
    context: RequestContext, scope: Scope, method: str, seconds: float
) -> dict[str, Any]:
    """What a request that took so long says of its slowest statement, which has no values."""
    return {
        "method": method,
        "route": getattr(scope.get("route"), "path_format", None),
        "ms": round(seconds * 1e3, 1),
        "db_ms": round(context.database_time * 1e3, 1),
        "wait_ms": round(context.waiting_time * 1e3, 1),
        "statement_ms": round(context.slowest_time * 1e3, 1),
        "statement": (context.slowest_statement or "")[:STATEMENT_MAX_CHARACTERS] or None,
    }
