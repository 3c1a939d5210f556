"""What the log says of a request that is over; docs/production.md has the members' meaning."""

import logging
import time
from typing import Any

from kernel.context import RequestContext, current_context
from kernel.driver_errors import driver_error
from kernel.errors import ServiceError
from kernel.metrics import Cost, count_request
from kernel.tracebacks import STATEMENT_MAX_CHARACTERS

logger = logging.getLogger("kernel.http.middleware")  # which its line has always had
statements = logging.getLogger("kernel.statements")


def log_statements(context: RequestContext) -> None:
    """Log each statement of the request at DEBUG: its text, which has no values."""
    further = context.on_statement

    def log_statement(statement: str, seconds: float, error: str | None) -> None:
        told = {"ms": round(seconds * 1e3, 1), "error": error, "sql": " ".join(statement.split())}
        statements.debug("statement", extra={"fields": told})
        if further:
            further(statement, seconds, error)

    context.on_statement = log_statement


def note_error(error: BaseException) -> None:
    """Remember what has failed: the `reason` of a 503, or the type of an error, which is its cause
    if the answer was raised from one."""
    if context := current_context():
        reason = error.extras.get("reason") if isinstance(error, ServiceError) else None
        cause = driver_error(error.__cause__ or error)
        context.error = reason if isinstance(reason, str) else type(cause).__qualname__


def log_request(  # noqa: PLR0913, PLR0917  # all that is known of it
    context: RequestContext,
    method: str,
    route: str | None,
    status: int,
    until_answer: float | None,
    slow_seconds: float,
) -> None:
    """Count a request that is over, write its line, and a WARNING if it was slow.

    `until_answer` are the seconds until its answer began, without those in which its body was
    waited for; None if it has none.
    """
    spent = time.perf_counter() - context.started
    count_request(method, route, status, Cost(spent, context.queries, context.database_time))
    if logger.isEnabledFor(logging.INFO):
        # Not logger.info(), which looks through the stack for its caller.
        record = logging.LogRecord(logger.name, logging.INFO, "", 0, "request", None, None)
        record.fields = _fields(context, method, route, status, spent)
        logger.handle(record)
    seconds = spent if until_answer is None else until_answer
    if seconds > slow_seconds:
        fields = _slow_fields(context, method, route, seconds)
        logger.warning("slow request", extra={"fields": fields})


def _fields(
    context: RequestContext, method: str, route: str | None, status: int, spent: float
) -> dict[str, Any]:
    return {
        "method": method,
        "route": route,
        "status": status,
        "ms": round(spent * 1e3, 1),
        "db_ms": round(context.database_time * 1e3, 1),
        "wait_ms": round(context.waiting_time * 1e3, 1),
        "queries": context.queries,
        "attempts": context.attempts,
        "error": context.error,
        "user_id": context.user_id,
        "client": context.client,
    }


def _slow_fields(
    context: RequestContext, method: str, route: str | None, seconds: float
) -> dict[str, Any]:
    """What it says of its slowest statement, which has no values."""
    return {
        "method": method,
        "route": route,
        "ms": round(seconds * 1e3, 1),
        "db_ms": round(context.database_time * 1e3, 1),
        "wait_ms": round(context.waiting_time * 1e3, 1),
        "statement_ms": round(context.slowest_time * 1e3, 1),
        "statement": (context.slowest_statement or "")[:STATEMENT_MAX_CHARACTERS] or None,
    }
