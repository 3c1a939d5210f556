"""The steps of an operation, out of what FastAPI found in its signature.

There is no list of what a plan cannot do. Each part of FastAPI's analysis has to equal that of the
plainest operation, attribute by attribute, but for the attributes named here: those that a plan
follows as FastAPI does, and those that only the document shows. So an option that is not known
here, of a later FastAPI too, sends its operation FastAPI's own way.
"""

from collections.abc import Awaitable, Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.dependencies.models import (
    Dependant,
    _is_async_gen_callable,
    _is_coroutine_callable,
    _is_gen_callable,
)
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic_core import PydanticUndefined
from sqlmodel import Field, SQLModel

from kernel.fast.request_parameters import (
    Parameter,
    QueryModel,
    ReadsNumbers,
    is_list,
    is_model,
    is_scalar,
    lists_of,
)

OPERATION = {
    *("original_route", "app", "path", "path_regex", "path_format", "param_convertors", "methods"),
    *("endpoint", "dependant", "dependencies", "dependency_overrides_provider", "body_field"),
    *("response_model", "response_field", "status_code"),
    "strict_content_type",  # a plan reads a body that is declared to be JSON, and no other one
    *("name", "summary", "description", "response_description", "responses", "response_fields"),
    *("tags", "deprecated", "operation_id", "unique_id", "generate_unique_id_function"),
    *("include_in_schema", "callbacks", "openapi_extra"),
}
DEPENDANT = {
    *("path_params", "query_params", "body_params", "dependencies", "name", "call", "path"),
    *("request_param_name", "http_connection_param_name"),
    "parent_oauth_scopes",  # which somebody's `own_oauth_scopes` are
}
FIELD = {"name", "field_info", "_type_adapter"}
FIELD_INFO = {
    *("annotation", "metadata", "default", "alias", "alias_priority", "validation_alias"),
    *("serialization_alias", "title", "description", "example", "examples", "openapi_examples"),
    *("deprecated", "include_in_schema", "json_schema_extra"),
    *("_attributes_set", "_qualifiers", "_complete", "_original_annotation"),
    *("_original_assignment", "_final"),
}
QUERY, BODY = 1, 2


async def _nothing() -> None: ...


class _PlainModel(SQLModel):
    bare: str = ""
    told: str = Field("")


async def _plainest(
    part: str,
    data: Annotated[str, Body()],
    _: Annotated[None, Depends(_nothing)],
    text: str = "",
) -> str:
    return part + data + text


_router, _app = APIRouter(), APIRouter()
_router.post("/{part}")(_plainest)
_app.include_router(_router)
(PLAINEST,) = iter_route_contexts(_app.routes)
PLAIN_ENDPOINT: Dependant = PLAINEST.dependant
(PLAIN_DEPENDENCY,) = PLAIN_ENDPOINT.dependencies
PLAIN_FIELDS = [
    *PLAIN_ENDPOINT.path_params,
    *PLAIN_ENDPOINT.query_params,
    *PLAIN_ENDPOINT.body_params,
]
PLAIN_MODEL_FIELDS = {type(field): field for field in _PlainModel.model_fields.values()}


class NeedsFastAPI(Exception):
    """The operation asks for more than a plan is known to give."""


@dataclass(frozen=True, slots=True)
class Step:
    """A dependency or, last, the endpoint; `parts` are the steps whose results it takes, and
    `request_names` the parameters that are the request itself."""

    call: Callable[..., Awaitable[Any]]
    parameters: list[Parameter | QueryModel]
    parts: list[tuple[str | None, int]]
    request_names: list[str]


def steps_of(context: RouteContext) -> list[Step]:
    """The operation's dependencies in the order in which FastAPI calls them, and its endpoint.

    Raises:
        NeedsFastAPI: something about it is not as in the plainest operation, and not known.
    """
    if context._route_context is None:
        raise NeedsFastAPI("it is no router's")
    _require_likeness(context._route_context, PLAINEST._route_context, OPERATION)
    if context.response_field is not None:
        _require_likeness(context.response_field, PLAINEST.response_field, FIELD)
    elif context.status_code != 204:
        raise NeedsFastAPI("its answer has no model")
    steps: list[Step] = []
    bodies = [] if context.body_field is None else [context.body_field]
    _add(context.dependant, PLAIN_ENDPOINT, steps, {}, bodies)
    return steps


def _require_likeness(thing: object, plain: object, known: set[str]) -> None:
    ours, plains = _attributes(thing), _attributes(plain)
    names = ours.keys() | plains.keys()
    own = {
        name
        for name in names
        if ours.get(name, PydanticUndefined) != plains.get(name, PydanticUndefined)
    } - known
    if type(thing) is not type(plain) or own:
        raise NeedsFastAPI(f"{type(thing).__name__}: {', '.join(sorted(own))}")


def _attributes(thing: object) -> dict[str, Any]:
    slots = [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
    in_slots = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    return in_slots | getattr(thing, "__dict__", {})


def _add(
    part: Dependant, plain: Dependant, steps: list[Step], places: dict[Any, int], bodies: list[Any]
) -> int:
    """Add the steps of a part, and say at which place its result is."""
    _require_likeness(part, plain, DEPENDANT)
    call: Any = part.call
    is_generator = _is_gen_callable(call) or _is_async_gen_callable(call)
    if is_generator or not _is_coroutine_callable(call) or part.body_params != bodies:
        raise NeedsFastAPI("a thread, a generator, or a body beside the endpoint's own")
    parts = [
        (each.name, _add(each, PLAIN_DEPENDENCY, steps, places, [])) for each in part.dependencies
    ]
    if call not in places:
        names = (part.http_connection_param_name, part.request_param_name)
        steps.append(Step(call, [*_parameters(part)], parts, [name for name in names if name]))
        places[call] = len(steps) - 1
    return places[call]


def _parameters(part: Dependant) -> Iterator[Parameter | QueryModel]:
    for source, fields in enumerate((part.path_params, part.query_params, part.body_params)):
        for field in fields:
            _require_likeness(field, PLAIN_FIELDS[source], FIELD)
            yield _parameter(field, field.field_info, source)


def _parameter(field: Any, info: Any, source: int) -> Parameter | QueryModel:
    _require_likeness(info, PLAIN_FIELDS[source].field_info, FIELD_INFO)
    location: tuple[str, ...] = ("body",)
    if info.validation_alias not in {None, field.alias}:
        raise NeedsFastAPI("a parameter of several names")
    validate = field._type_adapter.validator.validate_python
    if source == QUERY and is_model(info.annotation):
        names = _names_of(info)
        return QueryModel(field, field.name, names, lists_of(info.annotation), validate)
    if source != BODY:
        location = (info.in_.value, field.alias)
        if not is_scalar(info) or _is_mutable(info.default):
            raise NeedsFastAPI("a parameter that is no single text, or has a mutable default")
    return Parameter(field, field.name, field.alias, source, location, validate, info.default)


def _is_mutable(default: object) -> bool:
    return deepcopy(default) is not default


def _names_of(info: Any) -> tuple[str, ...]:
    """The fields of a model of query parameters."""
    for field in info.annotation.model_fields.values():
        _require_likeness(field, PLAIN_MODEL_FIELDS.get(type(field)), FIELD_INFO)
        has_other_name = field.alias or field.validation_alias
        if has_other_name or not (is_scalar(field) or is_list(field)):
            raise NeedsFastAPI("a query parameter of another name, or that is no list of texts")
    if any(type(rule) is not ReadsNumbers for rule in info.metadata):
        raise NeedsFastAPI("a model of query parameters with rules of its own")
    return tuple(info.annotation.model_fields)
