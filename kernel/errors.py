"""Every answer that is not a success, in one form: RFC 9457 problem details, and two words more.

`error` and `message` are ours, `status`, `title` and `detail` are the RFC's, so that clients of
both kinds find what they read. No answer repeats the client's input, but for ids and field names.
"""

import json
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from kernel.context import current_context
from kernel.reminders import Reminders

# RFC 9110 §15 and RFC 6585; http.HTTPStatus renames some of these between Python versions.
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
MOST_MISTAKES = 50
logger = logging.getLogger(__name__)
_reminders = Reminders()
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# What a route is found by.
ASKED = ("type", "path", "root_path", "headers")


class ServiceError(Exception):
    """An answer other than success; `extras` become further members of its body."""

    status: ClassVar[int] = 500
    default_headers: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(
        self, message: str, *, headers: Mapping[str, str] | None = None, **extras: object
    ) -> None:
        super().__init__(message)
        self.message = message
        self.headers = {**self.default_headers, **(headers or {})}
        self.extras = extras


class BadRequest(ServiceError):
    status = 400


class Unauthorized(ServiceError):
    status = 401
    default_headers = MappingProxyType({"WWW-Authenticate": "Bearer"})


class Forbidden(ServiceError):
    status = 403


class NotFound(ServiceError):
    status = 404

    def __init__(self, what: str, key: object) -> None:
        super().__init__(f"{what} {key} not found")


class Conflict(ServiceError):
    status = 409


class PreconditionFailed(ServiceError):
    status = 412


class UnsupportedMediaType(ServiceError):
    status = 415


class Unprocessable(ServiceError):
    status = 422


class TooManyRequests(ServiceError):
    status = 429


class Unavailable(ServiceError):
    status = 503
    default_headers = MappingProxyType({"Retry-After": "1"})


class DatabaseUnavailable(Unavailable):
    """A 503 whose cause is logged where it happens; `reason` tells which it is."""


class OutcomeUnknown(ServiceError):
    """A 503 without Retry-After: whoever tries again unseeing may do the work twice."""

    status = 503


def problem(
    status: int, message: str, headers: Mapping[str, str] | None = None, **extras: object
) -> Response:
    """The answer for a failure; extras never override the members of the form."""
    title = TITLES.get(status, "Error")
    context = current_context()
    form = {
        "error": title.lower().replace(" ", "_"),
        "message": message,
        "status": status,
        "title": title,
        "detail": message,
        "request_id": context.request_id if context else "",
    }
    # json's ASCII escapes carry even lone surrogates, which UTF-8 cannot.
    return Response(
        json.dumps(form | {name: extras[name] for name in extras.keys() - form.keys()}),
        status,
        headers,
        media_type="application/problem+json",
    )


def _tell_failure(status: int, message: str, error: Exception) -> None:
    """Log a failure that is raised as an answer, now and then; those of the database are logged
    where they happen."""
    cause = type(error.__cause__ or error).__qualname__
    if failures := _reminders.count((status, message, cause)):
        fields = {"status": status, "error": cause, "failures": failures}
        logger.warning(message, extra={"fields": fields})


async def _on_service_error(_: Request, error: ServiceError) -> Response:
    if error.status >= 500 and not isinstance(error, DatabaseUnavailable):
        _tell_failure(error.status, error.message, error)
    return problem(error.status, error.message, error.headers, **error.extras)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    if error.status_code >= 500:
        _tell_failure(error.status_code, str(error.detail), error)
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return problem(error.status_code, error.detail, headers)


async def _on_invalid_request(_: Request, error: RequestValidationError) -> Response:
    # Only these three members: `input` and `ctx` would send a password back.
    mistakes = [
        {
            "loc": [part[:64] if isinstance(part, str) else part for part in each["loc"]],
            "type": each["type"],
            "msg": each["msg"].removeprefix("Value error, "),
        }
        for each in error.errors()[:MOST_MISTAKES]
    ]
    return problem(422, "the request is not valid", errors=mistakes)


def _allowed_methods(request: Request) -> list[str]:
    """All methods that the path answers to; Starlette's own Allow names one route's only."""
    routes = request.app.router.routes

    def answers(method: str) -> bool:
        # A scope of its own: to match also notes in it what was found.
        scope = {name: request.scope[name] for name in ASKED if name in request.scope}
        return any(route.matches({**scope, "method": method})[0] == Match.FULL for route in routes)

    methods = [method for method in METHODS if answers(method)]
    return [*methods, "HEAD"] if "GET" in methods else methods


def install_error_handlers(app: FastAPI) -> None:
    """Give the framework's errors and the service's own the one form."""
    app.add_exception_handler(ServiceError, _on_service_error)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _on_http_exception)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _on_invalid_request)  # type: ignore[arg-type]
