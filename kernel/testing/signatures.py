"""Rules for the signatures of operations, and for the models of their bodies.

A body is a model that refuses unknown fields and bounds its texts; no table is in a signature; a
GET has no session that can write.
"""

from collections.abc import Iterable, Iterator
from importlib import import_module, util
from inspect import isclass
from itertools import chain
from typing import Any, get_args, get_origin

from fastapi import FastAPI, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from sqlalchemy import Column
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

from kernel.data.models import Input
from kernel.data.values import storable_document
from kernel.http.dependencies import get_session
from kernel.testing.rules import packages
from kernel.testing.walking import Walk


def mistakes(app: FastAPI) -> list[str]:
    """The breaches of these rules, a line for each, beginning with the route's path."""
    return [
        f"{route.path} {mistake}"
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
        for mistake in chain(tables(route), bodies(route), sessions(route))
    ]


def tables(route: RouteContext) -> Iterator[str]:
    parts = list(flatten(route.dependant))
    fields = [field for part in parts for field in (*inputs(part), *part.body_params)]
    answers = [route.response_model]
    answers += [field.field_info for field in route.response_fields.values()]
    annotations = [field.field_info.annotation for field in fields]
    annotations += [getattr(answer, "annotation", answer) for answer in answers]
    for model in classes(annotations):
        if is_table(model):
            yield f"has the table {model.__name__} in its signature"


def bodies(route: RouteContext) -> Iterator[str]:
    fields = [field for part in flatten(route.dependant) for field in part.body_params]
    for body in (field.field_info for field in fields):
        if isinstance(body, params.Form):
            continue
        models = {cls for cls in classes([body.annotation]) if issubclass(cls, BaseModel)}
        if not models:
            yield "takes a body that is no model"
        for model in models:
            # "ignore" is chosen for a body that others define; None means it was forgotten.
            if model.model_config.get("extra") not in ("forbid", "ignore"):
                yield f"lets unknown fields of {model.__name__} pass"
            for name, field in model.model_fields.items():
                if is_document(field):
                    if storable_document not in validators(field):
                        yield f"lets any JSON into {model.__name__}.{name}"
                elif is_text(field) and longest(field) is None:
                    yield f"sets no bound to {model.__name__}.{name}"


def sessions(route: RouteContext) -> Iterator[str]:
    calls = {part.call for part in flatten(route.dependant)}
    reads = {"GET", "HEAD"} & (route.methods or set())
    if reads and get_session in calls:
        yield "reads, and has a session to write with"


def flatten(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for part in dependant.dependencies:
        yield from flatten(part)


def inputs(part: Dependant) -> list[Any]:
    return [*part.path_params, *part.query_params, *part.header_params, *part.cookie_params]


def classes(annotations: Iterable[Any], *, within_models: bool = True) -> set[type]:
    """Every class in the annotations, in their arguments, and in the models' fields."""
    seen: set[type] = set()
    waiting = list(annotations)
    while waiting:
        part = waiting.pop()
        waiting += [*get_args(getattr(part, "__value__", part)), *filter(None, [get_origin(part)])]
        if isclass(part) and part not in seen:
            seen.add(part)
            if within_models and issubclass(part, BaseModel):
                waiting += [field.annotation for field in part.model_fields.values()]
                waiting += part.__pydantic_generic_metadata__["args"]
    return seen


def is_text(field: FieldInfo) -> bool:
    """Whether the field takes free text, unlike a Literal or an Enum."""
    return not {str, SecretStr}.isdisjoint(classes([field.annotation], within_models=False))


def is_document(field: FieldInfo) -> bool:
    """Whether the field takes any JSON, whose size and depth no `max_length` bounds."""
    return bool({Any, object, dict} & classes([field.annotation], within_models=False))


def rules(field: FieldInfo) -> list[Any]:
    """The metadata of the field and of all parts of its annotation (`Annotated[type, rule]`)."""
    metadata, waiting = list(field.metadata), [field.annotation]
    while waiting:
        metadata += getattr(part := waiting.pop(), "__metadata__", ())
        waiting += get_args(part)
    return metadata


def longest(field: FieldInfo) -> int | None:
    """The `max_length` of the field's text, or of those in its list."""
    return min(_lengths(field.annotation, field.metadata), default=None)


def _lengths(annotation: Any, marks: Iterable[Any]) -> Iterator[int]:
    parts = get_args(annotation)
    # A list's own is how many there may be.
    if not {list, set, frozenset, tuple} & {get_origin(each) for each in (annotation, *parts)}:
        for mark in chain.from_iterable(getattr(each, "metadata", [each]) for each in marks):
            if length := getattr(mark, "max_length", None):
                yield length
    for part in parts:
        yield from _lengths(part, getattr(part, "__metadata__", ()))


def validators(field: FieldInfo) -> list[Any]:
    return [getattr(rule, "func", None) for rule in rules(field)]


def test_signatures_are_made_of_strict_bounded_models(walk: Walk) -> None:
    assert mistakes(walk.app) == []


# Lengths: a body's limit is that of its column.


def unlike(models: Iterable[type]) -> list[str]:
    """The text fields of bodies whose limit is not that of the slice's column of this name."""
    wrong = []
    rows = [model for model in models if is_table(model)]
    for body in (model for model in models if issubclass(model, Input)):
        # ItemCreate is about Item; a name like MeUpdate is about whichever table has the column.
        tables = [row for row in rows if body.__name__.startswith(row.__name__)] or rows
        for name, field in body.model_fields.items():
            columns = [row.__table__.c[name] for row in tables if name in row.__table__.c]  # type: ignore[attr-defined]  # they are tables
            right = "JSONB" if is_document(field) else f"VARCHAR({longest(field)})"
            if (is_text(field) or is_document(field)) and any(kind(c) != right for c in columns):
                wrong.append(f"{body.__name__}.{name}")
    return wrong


def kind(column: Column[Any]) -> str:
    """The column's type in SQL, or that of an array's elements."""
    element = getattr(column.type, "item_type", column.type)
    return element.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]  # SQLAlchemy's


def is_table(model: type) -> bool:
    return issubclass(model, SQLModel) and hasattr(model, "__table__")


def models_of(package: str) -> list[type]:
    name = f"{package}.models"
    module = import_module(name) if util.find_spec(name) else None
    return [value for value in vars(module).values() if isclass(value)] if module else []


def test_a_text_is_as_long_in_a_body_as_in_its_column(walk: Walk) -> None:
    wrong = {package: unlike(models_of(package)) for package in packages(walk)}
    assert {package: fields for package, fields in wrong.items() if fields} == {}


def test_every_text_column_has_a_length(walk: Walk) -> None:
    models = [model for package in packages(walk) for model in models_of(package)]
    tables = [model.__table__ for model in models if is_table(model)]  # type: ignore[attr-defined]  # it has one
    columns = [column for table in tables for column in table.c]
    assert [str(c) for c in columns if kind(c) in {"VARCHAR", "CHAR", "TEXT"}] == []
