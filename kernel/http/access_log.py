"""The log lines of a request that has ended; docs/production.md explains their members."""

import logging
import time
from typing import Any

from kernel.context import RequestContext, current_context
from kernel.driver_errors import driver_error
from kernel.errors import ServiceError
from kernel.metrics import Cost, count_request
from kernel.tracebacks import STATEMENT_MAX_CHARACTERS

logger = logging.getLogger("kernel.http.middleware")  # the name is public: operators filter by it
statements = logging.getLogger("kernel.statements")


def log_statements(context: RequestContext) -> None:
    """Log each statement of the request at DEBUG: its text, which has no values."""
    next_observer = context.on_statement

    def log_statement(statement: str, seconds: float, error: str | None) -> None:
        fields = {"ms": round(seconds * 1e3, 1), "error": error, "sql": " ".join(statement.split())}
        statements.debug("statement", extra={"fields": fields})
        if next_observer:
            next_observer(statement, seconds, error)

    context.on_statement = log_statement


def note_error(error: BaseException) -> None:
    """Keep the cause of a failure for the log line: the `reason` of a 503, or else the type of the
    error, or of the one that it was raised from."""
    if context := current_context():
        reason = error.extras.get("reason") if isinstance(error, ServiceError) else None
        cause = driver_error(error.__cause__ or error)
        context.error = reason if isinstance(reason, str) else type(cause).__qualname__


def log_request(  # noqa: PLR0913, PLR0917  # the parts of its line
    context: RequestContext,
    method: str,
    route: str | None,
    status: int,
    until_answer: float | None,
    slow_seconds: float,
) -> None:
    """Count a request that is over, write its line, and a WARNING if it was slow.

    `until_answer` is how many seconds passed until the response began, without the time that the
    client took to send the body; None if there was no response.
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
    """The members of the line of a slow request; its statement is without values."""
    return {
        "method": method,
        "route": route,
        "ms": round(seconds * 1e3, 1),
        "db_ms": round(context.database_time * 1e3, 1),
        "wait_ms": round(context.waiting_time * 1e3, 1),
        "statement_ms": round(context.slowest_time * 1e3, 1),
        "statement": (context.slowest_statement or "")[:STATEMENT_MAX_CHARACTERS] or None,
    }
