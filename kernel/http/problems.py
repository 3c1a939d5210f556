"""Every answer that is not a success, in one form: RFC 9457 problem details, and two words more.

`error` and `message` are ours, `status`, `title` and `detail` are the RFC's, so that clients of
both kinds find what they read. No answer repeats the client's input, but for ids and field names.
A router may have another form: `Router(errors=ErrorForm(...))`.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from kernel.context import current_context
from kernel.errors import DatabaseUnavailable, ServiceError, title_of
from kernel.reminders import Reminders

MOST_MISTAKES = 50
WRONG = "something went wrong"
# What a route is found by.
ASKED = ("type", "path", "root_path", "headers")
PARAMETER = re.compile("{[^}]*}")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
logger = logging.getLogger(__name__)
_reminders = Reminders()


class Mistake(BaseModel):
    """One thing wrong with the request: where (`loc`), which rule (`type`), in words (`msg`)."""

    loc: list[str | int]
    type: str
    msg: str


class Problem(BaseModel):
    """The body of every answer that is not a success (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    error: str
    message: str
    status: int
    title: str
    detail: str
    request_id: str
    errors: list[Mistake] | None = None


@dataclass(frozen=True)
class Failure:
    """What an answer that is no success has to tell; `extras` are the error's own, such as the
    `errors` of a 422, a list of `{"loc", "type", "msg"}`."""

    status: int
    message: str
    request_id: str
    extras: Mapping[str, Any]

    @property
    def title(self) -> str:
        return title_of(self.status)


@dataclass(frozen=True)
class ErrorForm:
    """How a router tells its failures: `make` gives the body, which `model` describes."""

    model: type[BaseModel]
    make: Callable[[Failure], Mapping[str, Any]]
    media_type: str = "application/json"

    @property
    def content(self) -> dict[str, Any]:
        """What OpenAPI says of such an answer's content."""
        schema = {"$ref": f"#/components/schemas/{self.model.__name__}"}
        return {"content": {self.media_type: {"schema": schema}}}


def _problem_details(failure: Failure) -> Mapping[str, Any]:
    """RFC 9457; extras never override the members of the form."""
    return {
        **failure.extras,
        "error": failure.title.lower().replace(" ", "_"),
        "message": failure.message,
        "status": failure.status,
        "title": failure.title,
        "detail": failure.message,
        "request_id": failure.request_id,
    }


PROBLEM_DETAILS = ErrorForm(Problem, _problem_details, "application/problem+json")


def failure_response(
    scope: Mapping[str, Any],
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    extras: Mapping[str, Any] = MappingProxyType({}),
) -> Response:
    """The answer for a failure, in the form of the router that the request is for."""
    context = current_context()
    failure = Failure(status, message, context.request_id if context else "", extras)
    form = _form_of(scope)
    try:
        body = _write(form, failure)
    except Exception:
        logger.exception("an error could not be written in its form")
        form, failure = PROBLEM_DETAILS, replace(failure, status=500, message=WRONG, extras={})
        body = _write(form, failure)
    return Response(body, failure.status, headers, media_type=form.media_type)


def _write(form: ErrorForm, failure: Failure) -> str:
    # json's ASCII escapes carry even lone surrogates, which UTF-8 cannot.
    return json.dumps(form.make(failure), default=to_jsonable_python, allow_nan=False)


def _form_of(scope: Mapping[str, Any]) -> ErrorForm:
    """That of the route that the request has come to. One that came to none, because it was refused
    unread, or has another method, or an id that is none, is a client's of the route of its path."""
    if form := getattr(scope.get("route"), "errors", None):
        return cast(ErrorForm, form)
    if "app" not in scope:
        return PROBLEM_DETAILS
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    for route in iter_route_contexts(scope["app"].routes):
        form = getattr(route.original_route, "errors", PROBLEM_DETAILS)
        if form is not PROBLEM_DETAILS and has_path(route.path_format or "", path):
            return cast(ErrorForm, form)
    return PROBLEM_DETAILS


def has_path(path_format: str, path: str) -> bool:
    """Whether a path has the form, whatever its parameters are: a slash is sent as `%2F` in one."""
    first, *others = PARAMETER.split(path_format)
    if not others:
        return path == first
    # Part by part, because a pattern of several wildcards takes long for a long path.
    *middle, last = others
    place = len(first)
    for part in middle:
        place = path.find(part, place + 1) + len(part)
        if place < len(part) + len(first):
            return False
    return path.startswith(first) and path.endswith(last) and place < len(path) - len(last)


def _tell_failure(status: int, message: str, error: Exception) -> None:
    """Log a failure that is raised as an answer, now and then; those of the database are logged
    where they happen."""
    cause = type(error.__cause__ or error).__qualname__
    if failures := _reminders.count((status, message, cause)):
        fields = {"status": status, "error": cause, "failures": failures}
        logger.warning(message, extra={"fields": fields})


async def _on_service_error(request: Request, error: ServiceError) -> Response:
    if error.status >= 500 and not isinstance(error, DatabaseUnavailable):
        _tell_failure(error.status, error.message, error)
    return failure_response(request.scope, error.status, error.message, error.headers, error.extras)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    if error.status_code >= 500:
        _tell_failure(error.status_code, str(error.detail), error)
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return failure_response(request.scope, error.status_code, error.detail, headers)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    # Only these three members: `input` and `ctx` would send a password back.
    mistakes = [
        {
            "loc": [part[:64] if isinstance(part, str) else part for part in each["loc"]],
            "type": each["type"],
            "msg": each["msg"].removeprefix("Value error, "),
        }
        for each in error.errors()[:MOST_MISTAKES]
    ]
    extras = {"errors": mistakes}
    return failure_response(request.scope, 422, "the request is not valid", extras=extras)


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
