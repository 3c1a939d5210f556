"""Rules for the signatures of operations, and for the bodies that they take.

What a client may send is named, bounded and of a model of its own; what a GET has cannot write.
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
    """What is wrong with the routes' parameters, bodies, answers and dependencies."""
    return [
        f"{route.path} {mistake}"
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
        for mistake in chain(tables(route), bodies(route), sessions(route))
    ]


def tables(route: RouteContext) -> Iterator[str]:
    parts = list(flatten(route.dependant))
    taken = [field for part in parts for field in (*inputs(part), *part.body_params)]
    given = [route.response_model, *(each.field_info for each in route.response_fields.values())]
    annotations = [field.field_info.annotation for field in taken]
    annotations += [getattr(each, "annotation", each) for each in given]
    for model in classes(annotations):
        if is_table(model):
            yield f"has the table {model.__name__} in its signature"


def bodies(route: RouteContext) -> Iterator[str]:
    fields = [field for part in flatten(route.dependant) for field in part.body_params]
    for body in (field.field_info for field in fields):
        if isinstance(body, params.Form):
            continue
        models = {each for each in classes([body.annotation]) if issubclass(each, BaseModel)}
        if not models:
            yield "takes a body that is no model"
        for model in models:
            # Whoever takes what others define says so; who says nothing has forgotten it.
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
    found: set[type] = set()
    waiting = list(annotations)
    while waiting:
        one = waiting.pop()
        waiting += [*get_args(getattr(one, "__value__", one)), *filter(None, [get_origin(one)])]
        if isclass(one) and one not in found:
            found.add(one)
            if within_models and issubclass(one, BaseModel):
                waiting += [field.annotation for field in one.model_fields.values()]
                waiting += one.__pydantic_generic_metadata__["args"]
    return found


def is_text(field: FieldInfo) -> bool:
    """Whether the field takes free text, unlike a Literal or an Enum."""
    return not {str, SecretStr}.isdisjoint(classes([field.annotation], within_models=False))


def is_document(field: FieldInfo) -> bool:
    """Whether the field takes JSON of any form, whose size and depth no length bounds."""
    return bool({Any, object, dict} & classes([field.annotation], within_models=False))


def rules(field: FieldInfo) -> list[Any]:
    """What the field's annotation says besides the type, wherever in it."""
    found, waiting = list(field.metadata), [field.annotation]
    while waiting:
        found += getattr(one := waiting.pop(), "__metadata__", ())
        waiting += get_args(one)
    return found


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


# Lengths: what a DTO lets in, the column can hold.


def unlike(models: Iterable[type]) -> list[str]:
    """The text fields of bodies that are longer or shorter than the slice's column."""
    found = []
    rows = [model for model in models if is_table(model)]
    for body in (model for model in models if issubclass(model, Input)):
        # ItemCreate is about Item; a name like MeUpdate is about whichever table has the column.
        own = [row for row in rows if body.__name__.startswith(row.__name__)] or rows
        for name, field in body.model_fields.items():
            columns = [row.__table__.c[name] for row in own if name in row.__table__.c]  # type: ignore[attr-defined]  # they are tables
            right = "JSONB" if is_document(field) else f"VARCHAR({longest(field)})"
            if (is_text(field) or is_document(field)) and any(kind(c) != right for c in columns):
                found.append(f"{body.__name__}.{name}")
    return found


def kind(column: Column[Any]) -> str:
    """The type of the column, or of what is in it if that is an array."""
    element = getattr(column.type, "item_type", column.type)
    return element.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]  # SQLAlchemy's


def is_table(model: type) -> bool:
    return issubclass(model, SQLModel) and hasattr(model, "__table__")


def models_of(package: str) -> list[type]:
    name = f"{package}.models"
    module = import_module(name) if util.find_spec(name) else None
    return [each for each in vars(module).values() if isclass(each)] if module else []


def test_a_text_is_as_long_in_a_body_as_in_its_column(walk: Walk) -> None:
    found = {package: unlike(models_of(package)) for package in packages(walk)}
    assert {package: fields for package, fields in found.items() if fields} == {}


def test_every_text_column_has_a_length(walk: Walk) -> None:
    models = [model for package in packages(walk) for model in models_of(package)]
    tables = [model.__table__ for model in models if is_table(model)]  # type: ignore[attr-defined]  # it has one
    columns = [column for table in tables for column in table.c]
    assert [str(c) for c in columns if kind(c) in {"VARCHAR", "CHAR", "TEXT"}] == []
