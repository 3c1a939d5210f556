"""The steps of an operation, out of what FastAPI found in its signature."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from inspect import iscoroutinefunction
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fastapi import params
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext
from pydantic import BaseModel, Field, TypeAdapter
from pydantic.fields import FieldInfo

IMMUTABLE = (NoneType, str, int, float, bool)


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
    request_name: str | None


def steps_of(context: RouteContext) -> list[Step]:
    """The operation's dependencies in the order in which FastAPI calls them, and its endpoint.

    Raises:
        Unplanned: there is a thread, a generator, a form, a header, a list or the like among them.
    """
    body = context.body_field
    if isinstance(body and body.field_info, params.Form):
        raise Unplanned
    if _has_a_form_of_its_own(context):
        raise Unplanned
    steps: list[Step] = []
    _add(context.dependant, steps, {}, bodies=1 if body else 0)
    return steps


def _has_a_form_of_its_own(context: RouteContext) -> bool:
    """Whether the answer is other than the response model's JSON, or nothing with a 204."""
    words = ("include", "exclude", "exclude_unset", "exclude_defaults", "exclude_none")
    is_shaped = any(getattr(context, f"response_model_{word}") for word in words)
    is_missing = context.response_field is None and context.status_code != 204
    is_json = isinstance(context.response_class, DefaultPlaceholder)
    return is_shaped or is_missing or not is_json or not context.response_model_by_alias


def validator_of(info: FieldInfo) -> Callable[[Any], Any]:
    """Gives the value of a parameter or a body; it raises ValidationError."""
    # Even without rules: an annotation cannot be of nothing.
    rules: Any = Annotated[(info.annotation, *info.metadata, Field())]
    return TypeAdapter(rules).validator.validate_python


def _add(part: Dependant, steps: list[Step], known: dict[Any, int], bodies: int = 0) -> int:
    call: Any = part.call
    if part.use_cache and call in known:
        return known[call]
    if _asks_for_more(part, bodies):
        raise Unplanned
    parts = [(each.name, _add(each, steps, known)) for each in part.dependencies]
    step = Step(call, [*_parameters(part)], parts, part.request_param_name)
    steps.append(step)
    known[call] = len(steps) - 1
    return known[call]


def _asks_for_more(part: Dependant, bodies: int) -> bool:
    call: Any = part.call
    is_coroutine = iscoroutinefunction(call) or iscoroutinefunction(call.__call__)
    more = (
        part.header_params,
        part.cookie_params,
        part.http_connection_param_name,
        part.response_param_name,
        part.background_tasks_param_name,
        part.security_scopes_param_name,
        part.own_oauth_scopes,
        part.concurrency,
    )
    return any(more) or len(part.body_params) != bodies or not is_coroutine


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
