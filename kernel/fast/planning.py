"""Makes the steps of an operation's plan from FastAPI's analysis of its signature.

There is no list of what a plan cannot do. Each part of FastAPI's analysis has to equal that of the
plainest operation, attribute by attribute. The only exceptions are the attributes named here: a
plan follows them as FastAPI does, or only OpenAPI shows them. So an operation with an option that
is not named here, such as one of a later FastAPI, is run by FastAPI.
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
    "strict_content_type",  # a plan reads only bodies that are declared as JSON
    *("name", "summary", "description", "response_description", "responses", "response_fields"),
    *("tags", "deprecated", "operation_id", "unique_id", "generate_unique_id_function"),
    *("include_in_schema", "callbacks", "openapi_extra"),
}
DEPENDANT = {
    *("path_params", "query_params", "body_params", "dependencies", "name", "call", "path"),
    *("request_param_name", "http_connection_param_name"),
    "parent_oauth_scopes",  # those of a dependant itself are in `own_oauth_scopes`
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
    declared: str = Field("")


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
    """The operation uses what a plan does not support, so FastAPI has to run it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A call of a dependency or, in the last step, of the endpoint.

    `parts` are its dependencies: the name of the parameter that gets the result (None for none),
    and the index of the step. `request_names` are the parameters that get the request.
    """

    call: Callable[..., Awaitable[Any]]
    parameters: list[Parameter | QueryModel]
    parts: list[tuple[str | None, int]]
    request_names: list[str]


def steps_of(context: RouteContext) -> list[Step]:
    """The operation's dependencies in the order in which FastAPI calls them, then its endpoint.

    Raises:
        NeedsFastAPI: it differs from the plainest operation in an attribute not named here.
    """
    if context._route_context is None:
        raise NeedsFastAPI("its route is not of a router")
    _require_likeness(context._route_context, PLAINEST._route_context, OPERATION)
    if context.response_field is not None:
        _require_likeness(context.response_field, PLAINEST.response_field, FIELD)
    elif context.status_code != 204:
        raise NeedsFastAPI("its response has no model")
    steps: list[Step] = []
    bodies = [] if context.body_field is None else [context.body_field]
    _add(context.dependant, PLAIN_ENDPOINT, steps, {}, bodies)
    return steps


def _require_likeness(part: object, plain: object, supported: set[str]) -> None:
    actual, expected = _attributes(part), _attributes(plain)
    different = {
        name
        for name in actual.keys() | expected.keys()
        if actual.get(name, PydanticUndefined) != expected.get(name, PydanticUndefined)
    } - supported
    if type(part) is not type(plain) or different:
        raise NeedsFastAPI(f"{type(part).__name__}: {', '.join(sorted(different))}")


def _attributes(part: object) -> dict[str, Any]:
    slots = [name for cls in type(part).__mro__ for name in getattr(cls, "__slots__", ())]
    in_slots = {name: getattr(part, name) for name in slots if hasattr(part, name)}
    return in_slots | getattr(part, "__dict__", {})


def _add(
    part: Dependant, plain: Dependant, steps: list[Step], places: dict[Any, int], bodies: list[Any]
) -> int:
    """Add the steps of a dependant; return the index of its own step in `steps`."""
    _require_likeness(part, plain, DEPENDANT)
    call: Any = part.call
    is_generator = _is_gen_callable(call) or _is_async_gen_callable(call)
    if is_generator or not _is_coroutine_callable(call) or part.body_params != bodies:
        raise NeedsFastAPI("it calls a sync or generator function, or a dependency has a body")
    parts = [
        (child.name, _add(child, PLAIN_DEPENDENCY, steps, places, []))
        for child in part.dependencies
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
        raise NeedsFastAPI("a parameter has another validation alias")
    validate = field._type_adapter.validator.validate_python
    if source == QUERY and is_model(info.annotation):
        names = _names_of(info)
        return QueryModel(field, field.name, names, lists_of(info.annotation), validate)
    if source != BODY:
        location = (info.in_.value, field.alias)
        if not is_scalar(info) or _is_mutable(info.default):
            raise NeedsFastAPI("a parameter is not scalar, or has a mutable default")
    return Parameter(field, field.name, field.alias, source, location, validate, info.default)


def _is_mutable(default: object) -> bool:
    return deepcopy(default) is not default


def _names_of(info: Any) -> tuple[str, ...]:
    """The names of the fields of a model of query parameters."""
    for field in info.annotation.model_fields.values():
        _require_likeness(field, PLAIN_MODEL_FIELDS.get(type(field)), FIELD_INFO)
        has_other_name = field.alias or field.validation_alias
        if has_other_name or not (is_scalar(field) or is_list(field)):
            raise NeedsFastAPI("a query parameter has an alias, or is neither scalar nor a list")
    if any(type(rule) is not ReadsNumbers for rule in info.metadata):
        raise NeedsFastAPI("a model of query parameters has validators")
    return tuple(info.annotation.model_fields)
