"""Records of the database as DTOs."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from operator import itemgetter
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)
_new = object.__new__
# What every instance of a model has, to be set without a look for its name.
_parts = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
_set_values, _set_known, _set_extra, _set_private = (vars(BaseModel)[e].__set__ for e in _parts)
# The kinds of decorators that change nothing about how a model is made.
OF_ANSWERS = {"field_serializers", "model_serializers", "computed_fields"}
# What asyncpg gives for a column of this kind is what pydantic would make of it.
NATIVE = {int, str, bool, bytes, date, datetime, Decimal, UUID, dict, NoneType}


def read(model: type[M], records: Sequence[Any]) -> list[M]:
    """The records as DTOs.

    The database has judged them. So they are taken as they are, unless the DTO has rules of its
    own or fields that are no type of a column.
    """
    names = _trusted(model)
    if names is None:
        return [model.model_validate(dict(record)) for record in records]
    # All of them share one set: with every name in it, nothing can be added.
    known, rows = set(names), []
    take = dict if records and known == set(records[0].keys()) else _taker(names)
    for record in records:
        row: M = _new(model)
        _set_values(row, take(record))
        _set_known(row, known)
        _set_extra(row, None)
        _set_private(row, None)
        rows.append(row)
    return rows


def _taker(names: list[str]) -> Callable[[Any], dict[str, Any]]:
    pick = itemgetter(*names)
    return lambda record: dict(zip(names, pick(record), strict=True))


@cache
def _trusted(model: type[BaseModel]) -> list[str] | None:
    """The names of the fields, if records can be taken as they are."""
    if set(BaseModel.__slots__) != set(_parts):
        return None  # an instance has more to it than `read` would set
    decorators = model.__pydantic_decorators__
    kinds = {field.name for field in fields(decorators)} - OF_ANSWERS
    has_rules = any(getattr(decorators, kind) for kind in kinds)
    if has_rules or model.model_post_init is not BaseModel.model_post_init:
        return None
    known = model.model_fields
    is_native = all(_is_native(each.annotation) for each in known.values())
    return [*known] if len(known) > 1 and is_native else None


def _is_native(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Annotated, Union, UnionType):
        parts = get_args(annotation)[:1] if origin is Annotated else get_args(annotation)
        return all(map(_is_native, parts))
    return origin is Literal or (origin or annotation) in NATIVE
