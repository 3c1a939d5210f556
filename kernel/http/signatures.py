"""What the boundary reads from an operation's signature."""

from collections.abc import Iterator
from dataclasses import is_dataclass
from itertools import chain
from typing import Any, get_args, get_type_hints

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from kernel.fast.inputs import request_names
from kernel.fast.request_parameters import models_in
from kernel.http.answer_headers import Audience
from kernel.http.bodies import JSON
from kernel.http.secrets import holds_secret
from kernel.identity.callers import RoleCheck, get_person, get_principal, get_viewer


def is_write(route: APIRoute) -> bool:
    """Whether a method of the route may change something (RFC 9110 §9.2.1)."""
    return not {"GET", "HEAD", "OPTIONS"}.issuperset(route.methods or ())


def is_read_as_json(route: APIRoute) -> bool:
    """Whether it is a GET that answers 200 with JSON of a declared model."""
    kind = getattr(route.response_class, "value", route.response_class)  # FastAPI's default
    is_json = getattr(kind, "media_type", None) == JSON and (route.status_code or 200) == 200
    return not is_write(route) and is_json and route.response_model is not None


def dependencies(route: APIRoute) -> set[Any]:
    """All callables that the operation depends on, at any depth."""
    return {part.call for part in flatten(route.dependant)}


def needs_principal(route: APIRoute) -> bool:
    """Whether only signed-in callers are answered."""
    calls = dependencies(route)
    return get_principal in calls or may_be_forbidden(calls)


def may_be_forbidden(calls: set[Any]) -> bool:
    """Whether some signed-in callers get a 403."""
    return get_person in calls or any(isinstance(call, RoleCheck) for call in calls)


def audience_of(route: APIRoute) -> Audience:
    """Who gets the same response."""
    if holds_secret(route):
        return Audience.CALLER_ONCE
    if needs_principal(route):
        return Audience.CALLER
    return Audience.ANYBODY if get_viewer in dependencies(route) else Audience.EVERYBODY


def takes_key(route: APIRoute) -> bool:
    """Whether the operation takes an Idempotency-Key: a write that knows its caller."""
    return is_write(route) and (needs_principal(route) or get_viewer in dependencies(route))


def may_read_body(route: APIRoute) -> bool:
    """Whether the handler has the Request, and so may read a body that it does not declare."""
    parts = flatten(route.dependant)
    return route.body_field is None and any(part.request_param_name for part in parts)


def input_names(route: APIRoute) -> frozenset[str]:
    """The names of all parameters and body fields that a client may send to the operation."""
    names: set[str] = set()
    seen: set[Any] = set()
    for part in flatten(route.dependant):
        groups = (part.path_params, part.query_params, part.header_params, part.body_params)
        for parameter in chain.from_iterable(groups):
            names.add(parameter.name)
            _add_fields(parameter.field_info.annotation, names, seen)
    return frozenset(names)


def has_query_model(route: APIRoute) -> bool:
    """Whether a model declares query parameters."""
    parts = flatten(route.dependant)
    return any(models_in(field.field_info.annotation) for p in parts for field in p.query_params)


def names_in_query(route: APIRoute) -> frozenset[str]:
    """The names of all query parameters, those that models declare included."""
    names: set[str] = set()
    for part in flatten(route.dependant):
        for parameter in part.query_params:
            models = models_in(parameter.field_info.annotation)
            names |= {parameter.alias} if not models else set()
            names |= {name for model in models for name in request_names(model)}
    return frozenset(names)


def _add_fields(annotation: Any, names: set[str], seen: set[Any]) -> None:
    """Add the names of the fields of all models, dataclasses and typed dicts in an annotation;
    models may contain themselves."""
    for part in get_args(annotation):
        _add_fields(part, names, seen)
    if not isinstance(annotation, type) or annotation in seen:
        return
    seen.add(annotation)
    fields = getattr(annotation, "model_fields", None)
    annotations = {name: field.annotation for name, field in (fields or {}).items()}
    if is_dataclass(annotation) or hasattr(annotation, "__total__"):
        annotations = get_type_hints(annotation)
    for name, inner in annotations.items():
        names.add(name)
        _add_fields(inner, names, seen)


def flatten(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for part in dependant.dependencies:
        yield from flatten(part)
