"""The steps of an operation, out of what FastAPI found in its signature."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from inspect import iscoroutinefunction, signature
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fastapi import Body, Depends
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext
from pydantic import BaseModel, Field, TypeAdapter
from pydantic.fields import FieldInfo

IMMUTABLE = (NoneType, str, int, float, bool)
BODY = type(Body())
# The options of an operation that a plan keeps to, or that change nothing about its answers. Each
# other one, of a later FastAPI too, has to be as it is for the plainest operation.
KNOWN_OPTIONS = {
    *("path", "endpoint", "name", "methods", "response_model", "status_code", "dependencies"),
    *("dependency_overrides_provider", "form_limits", "tags", "summary", "description"),
    *("response_description", "responses", "deprecated", "operation_id", "include_in_schema"),
    *("callbacks", "openapi_extra", "generate_unique_id_function"),
    "strict_content_type",  # the boundary refuses a body without a media type
}
# The same for what FastAPI has found in a signature.
KNOWN_PARTS = {
    *("path_params", "query_params", "body_params", "dependencies", "name", "call", "path"),
    *("request_param_name", "http_connection_param_name", "use_cache"),
}


async def _nothing() -> None: ...
async def _plainest(_: Annotated[None, Depends(_nothing)]) -> None: ...


PLAIN_ROUTE = APIRoute("/", _plainest)
PLAIN_PART = PLAIN_ROUTE.dependant.dependencies[0]
OPTIONS = signature(APIRoute).parameters.keys() - KNOWN_OPTIONS
PARTS = {field.name for field in fields(Dependant)} - KNOWN_PARTS


class Unplanned(Exception):
    """The operation asks for more than steps can give."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path or the query; `validate` gives the value, or raises ValidationError."""

    name: str
    alias: str
    in_path: bool
    validate: Callable[[Any], Any]
    is_required: bool
    default: Any


@dataclass(frozen=True, slots=True)
class Step:
    """A dependency or, last, the endpoint; `parts` are the steps whose results it takes."""

    call: Callable[..., Awaitable[Any]]
    parameters: list[Parameter]
    parts: list[tuple[str | None, int]]
    request_names: list[str]


def steps_of(context: RouteContext) -> list[Step]:
    """The operation's dependencies in the order in which FastAPI calls them, and its endpoint.

    Raises:
        Unplanned: there is a thread, a generator, a form, a header, a list or the like among them.
    """
    body = context.body_field
    if body and type(body.field_info) is not BODY:
        raise Unplanned
    if _has_a_form_of_its_own(context):
        raise Unplanned
    steps: list[Step] = []
    if _is_unlike(context.dependant, PLAIN_ROUTE.dependant, PARTS):
        raise Unplanned
    _add(context.dependant, steps, {}, bodies=1 if body else 0)
    return steps


def _has_a_form_of_its_own(context: RouteContext) -> bool:
    """Whether the answer is other than the response model's JSON, or nothing with a 204."""
    is_missing = context.response_field is None and context.status_code != 204
    return is_missing or _is_unlike(context, PLAIN_ROUTE, OPTIONS)


def _is_unlike(given: object, plain: object, names: Iterable[str]) -> bool:
    """Whether it has another value than the plain one has; empty is as good as none."""
    return any((getattr(given, name) or None) != (getattr(plain, name) or None) for name in names)


def validator_of(info: FieldInfo) -> Callable[[Any], Any]:
    """Gives the value of a parameter or a body; it raises ValidationError."""
    # Even without rules: an annotation cannot be of nothing.
    rules: Any = Annotated[(info.annotation, *info.metadata, Field())]
    return TypeAdapter(rules).validator.validate_python


def _add(part: Dependant, steps: list[Step], known: dict[Any, int], bodies: int = 0) -> int:
    call: Any = part.call
    is_coroutine = iscoroutinefunction(call) or iscoroutinefunction(call.__call__)
    if len(part.body_params) != bodies or not is_coroutine:
        raise Unplanned
    if part.use_cache and call in known:
        return known[call]
    if any(_is_unlike(each, PLAIN_PART, PARTS) for each in part.dependencies):
        raise Unplanned
    parts = [(each.name, _add(each, steps, known)) for each in part.dependencies]
    names = (part.request_param_name, part.http_connection_param_name)
    step = Step(call, [*_parameters(part)], parts, [name for name in names if name])
    steps.append(step)
    known[call] = len(steps) - 1
    return known[call]


def _parameters(part: Dependant) -> Iterator[Parameter]:
    for in_path, given in ((True, part.path_params), (False, part.query_params)):
        for each in given:
            info = each.field_info
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            if not _is_plain(info.annotation) or not isinstance(default, IMMUTABLE):
                raise Unplanned
            yield Parameter(
                each.name, each.alias, in_path, validator_of(info), info.is_required(), default
            )


def _is_plain(annotation: Any) -> bool:
    """Whether a parameter is one text of the request, unlike a list or a model."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_plain(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return all(map(_is_plain, get_args(annotation)))
    return origin is Literal or (
        isinstance(annotation, type) and origin is None and not issubclass(annotation, BaseModel)
    )
