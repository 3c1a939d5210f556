"""Error responses in one form: RFC 9457 problem details, with two further members.

`error` and `message` are the service's, `status`, `title` and `detail` the RFC's, for clients of
either kind. No error repeats the client's input, except for ids and field names. A router may have
another form: `Router(errors=ErrorForm(...))`.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python
from starlette.responses import Response

from kernel.context import current_context
from kernel.errors import title_of
from kernel.http.access_log import note_error

WRONG = "something went wrong"
PARAMETER = re.compile("{[^}]*}")
# Statuses whose response never has a body (RFC 9110 §15.2, §15.3.5-6, §15.4.5).
BODILESS = {*range(100, 200), 204, 205, 304}
# Headers that the form sets, and an error cannot.
FORM_HEADERS = {"content-type", "content-length"}
logger = logging.getLogger(__name__)


# What a docs page shows of every error, whatever its status: one document for each would make the
# contract a quarter longer.
EXAMPLE: dict[str, Any] = {
    "error": "not_found",
    "message": "item 7 not found",
    "status": 404,
    "title": "Not Found",
    "detail": "item 7 not found",
    "request_id": "0c41248c2b1f0ce9bcc7301f981741c6",
}


class Mistake(BaseModel):
    """One thing wrong with the request: where (`loc`), which rule (`type`), in words (`msg`)."""

    loc: list[str | int]
    type: str
    msg: str


class Problem(BaseModel):
    """The body of every answer that is not a success (RFC 9457)."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [EXAMPLE]})

    error: str
    message: str
    status: int
    title: str
    detail: str
    request_id: str
    errors: list[Mistake] = []


@dataclass(frozen=True)
class Failure:
    """The content of an error response, which a form renders; `extras` are further members, such as
    the `errors` of a 422, a list of `{"loc", "type", "msg"}`."""

    status: int
    message: str
    request_id: str
    extras: Mapping[str, Any]

    @property
    def title(self) -> str:
        return title_of(self.status)


@dataclass(frozen=True)
class ErrorForm:
    """The form of a router's errors: `make` gives the JSON body, whose schema is of `model`."""

    model: type[BaseModel]
    make: Callable[[Failure], Mapping[str, Any]]
    media_type: str = "application/json"

    @property
    def content(self) -> dict[str, Any]:
        """The `content` of such a response in OpenAPI."""
        schema = {"$ref": f"#/components/schemas/{self.model.__name__}"}
        return {"content": {self.media_type: {"schema": schema}}}


def _problem_details(failure: Failure) -> Mapping[str, Any]:
    """The body of RFC 9457; extras never override its members."""
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
    """The error response, in the form of the request's router; a 500 if that form fails."""
    lowered = {name.lower(): text for name, text in (headers or {}).items()}
    headers = {name: text for name, text in lowered.items() if name not in FORM_HEADERS}
    if status in BODILESS:
        return Response(status_code=status, headers=headers)
    context = current_context()
    failure = Failure(status, message, context.request_id if context else "", extras)
    form = _form_of(scope)
    try:
        body = _write(form, failure)
    except Exception as error:
        note_error(error)
        logger.exception("an error could not be written in its form")
        form, failure = PROBLEM_DETAILS, replace(failure, status=500, message=WRONG, extras={})
        body = _write(form, failure)
    return Response(body, failure.status, headers, media_type=form.media_type)


def _write(form: ErrorForm, failure: Failure) -> str:
    # In ASCII: escapes can hold a lone surrogate, and UTF-8 cannot.
    return json.dumps(form.make(failure), default=to_jsonable_python, allow_nan=False)


def _form_of(scope: Mapping[str, Any]) -> ErrorForm:
    """The form of the request's route. A request without one, because it was refused early, has
    another method or an invalid id, gets the form of the route that has its path."""
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
    """Whether a path matches the template. A parameter may hold slashes, sent as `%2F`."""
    first, *others = PARAMETER.split(path_format)
    if not others:
        return path == first
    # Part by part: a regular expression with several wildcards is slow for a long path.
    *middle, last = others
    place = len(first)
    for part in middle:
        place = path.find(part, place + 1) + len(part)
        if place < len(part) + len(first):
            return False
    return path.startswith(first) and path.endswith(last) and place < len(path) - len(last)
