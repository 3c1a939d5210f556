"""Exception handlers: the framework's errors and the service's own get responses of one form.

An `HTTPException` may have any status, and any JSON as its `detail`. RFC 9457 reserves the member
`detail` for text, so another value becomes the member `details`.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic_core import to_jsonable_python
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Match

from kernel.errors import DatabaseUnavailable, ServiceError, title_of
from kernel.http.access_log import note_error
from kernel.http.problems import WRONG, failure_response
from kernel.http.upstreams import request_fields, upstream_failure
from kernel.identity.callers import CHALLENGE, challenges
from kernel.reminders import Reminders

MOST_MISTAKES = 50
# The keys of the scope that a route is matched by, beside the method.
MATCH_KEYS = ("type", "path", "root_path", "headers")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
logger = logging.getLogger(__name__)
_reminders = Reminders()


def _log_failure(status: int, message: str, error: Exception, **further: object) -> None:
    """Log an error response, at most every 30 seconds for each cause. Failures of the database are
    logged where they happen."""
    cause = type(error.__cause__ or error).__qualname__
    if failures := _reminders.count((status, message, cause)):
        fields = {"status": status, "error": cause, "failures": failures, **further}
        logger.warning(message, extra={"fields": fields}, exc_info=error)


async def _on_service_error(connection: HTTPConnection, error: ServiceError) -> Response:
    if error.status >= 500:
        note_error(error)
        if not isinstance(error, DatabaseUnavailable):
            _log_failure(error.status, error.message, error)
    headers = _with_challenges(connection, error.status, error.headers)
    return failure_response(connection.scope, error.status, error.message, headers, error.extras)


async def _on_upstream_failure(connection: HTTPConnection, error: httpx.HTTPError) -> Response:
    if (answer := upstream_failure(error)) is None:
        raise error
    _log_failure(answer.status, answer.message, error, **request_fields(error))
    return failure_response(connection.scope, answer.status, answer.message)


async def _on_http_exception(connection: HTTPConnection, error: HTTPException) -> Response:
    status: int = error.status_code
    detail: Any = error.detail
    is_text = isinstance(detail, str | None)
    message = detail if is_text and detail else title_of(status)
    extras = {} if is_text else {"details": _jsonable(detail)}
    if status >= 500:
        note_error(error)
        _log_failure(status, message, error)
    headers = _with_challenges(connection, status, dict(error.headers or {}))
    if status == 405 and connection.scope["type"] == "http":
        headers["Allow"] = ", ".join(_allowed_methods(connection))
    return failure_response(connection.scope, status, message, headers, extras)


def _jsonable(detail: Any) -> Any:
    """The detail with its models, times and keys as JSON has them, and without infinite numbers."""
    try:
        plain = to_jsonable_python(detail, by_alias=True)
    except UnicodeDecodeError:
        plain = to_jsonable_python(detail, by_alias=True, bytes_mode="base64")
    return json.loads(json.dumps(plain), parse_constant=lambda _: None)


def _with_challenges(
    connection: HTTPConnection, status: int, headers: Mapping[str, str]
) -> dict[str, str]:
    """The headers; those of a 401 name the schemes that the service takes (RFC 9110 §11.6.1)."""
    names = {name.lower() for name in headers}
    if status != 401 or CHALLENGE.lower() in names or not (schemes := challenges(connection.app)):
        return {**headers}
    return {**headers, CHALLENGE: ", ".join(schemes)}


async def _on_invalid_request(
    connection: HTTPConnection, error: RequestValidationError | WebSocketRequestValidationError
) -> Response:
    extras = {"errors": [_mistake(item) for item in error.errors()[:MOST_MISTAKES]]}
    return failure_response(connection.scope, 422, "the request is not valid", extras=extras)


def _mistake(error: Any) -> dict[str, Any]:
    """One member of a 422's `errors`; an error that a handler has raised itself may lack parts."""
    # Only these three members: `input` and `ctx` would send a password back.
    mistake: Mapping[str, Any] = error if isinstance(error, Mapping) else {"msg": str(error)}
    loc = mistake.get("loc", ())
    parts = loc if isinstance(loc, list | tuple) else [loc]
    return {
        "loc": [part if isinstance(part, int) else str(part)[:64] for part in parts],
        "type": str(mistake.get("type", "value_error")),
        "msg": str(mistake.get("msg", "is not valid")).removeprefix("Value error, "),
    }


async def _on_crash(connection: HTTPConnection, error: Exception) -> Response:
    """The response to an exception of a middleware outside of the service's own."""
    if isinstance(error, ServiceError):
        return await _on_service_error(connection, error)
    if isinstance(error, HTTPException):
        return await _on_http_exception(connection, error)
    return failure_response(connection.scope, 500, WRONG)


def _allowed_methods(connection: HTTPConnection) -> list[str]:
    """All methods of the path; Starlette's own Allow has those of one route only."""
    scope, routes = connection.scope, connection.app.router.routes

    def answers(method: str) -> bool:
        # A copy: matching writes its results into the scope.
        match_scope = {name: scope[name] for name in MATCH_KEYS if name in scope}
        return any(
            route.matches({**match_scope, "method": method})[0] == Match.FULL for route in routes
        )

    methods = [method for method in METHODS if answers(method)]
    return [*methods, "HEAD"] if "GET" in methods else methods


def install_error_handlers(app: FastAPI) -> None:
    """Install the handlers: the framework's errors and the service's own get one form."""
    handlers: dict[type[Exception], Any] = {
        ServiceError: _on_service_error,
        httpx.HTTPError: _on_upstream_failure,
        HTTPException: _on_http_exception,
        RequestValidationError: _on_invalid_request,
        WebSocketRequestValidationError: _on_invalid_request,
        Exception: _on_crash,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
