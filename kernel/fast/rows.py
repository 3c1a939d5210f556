"""Rows of the database as DTOs, as pydantic would validate them.

Without validation only if that would change nothing: each field has a column, its schema is that of
a plain type, and each value is of exactly that class. So what a column was declared to be, an outer
join or a function that gives another number has no say in it.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from operator import itemgetter
from types import NoneType
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter
from sqlmodel import SQLModel

from kernel.fast.columns import refuse_repeated
from kernel.fast.records import Record
from kernel.fast.switches import OFF

M = TypeVar("M", bound=BaseModel)
_new = object.__new__
# What every instance of a model has, to be set without a look for its name.
_parts = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
_set_values, _set_known, _set_extra, _set_private = (vars(BaseModel)[e].__set__ for e in _parts)
# Whatever a value of one of these classes is, pydantic gives it back.
PLAIN = (int, str, bool, bytes, float, date, datetime, time, timedelta, uuid.UUID)
SCHEMAS: list[tuple[Any, type]] = [(TypeAdapter[Any](of).core_schema, of) for of in PLAIN]
# What of a schema may be there, for it does nothing to a value that is given.
BESIDE = {"metadata", "ref", "serialization"}
OF_MODEL = BESIDE | {"type", "cls", "schema", "config", "custom_init", "root_model"}
OF_FIELDS = BESIDE | {"type", "fields", "model_name", "computed_fields"}
OF_FIELD = BESIDE | {"type", "schema", "frozen", "serialization_alias", "serialization_exclude"}
OF_DEFAULT = BESIDE | {"type", "schema", "default", "default_factory", "copy_default"}
OF_NULLABLE = BESIDE | {"type", "schema"}
OF_CONFIG = {"title", "from_attributes"}
# What makes an instance and does nothing else with it; a base class may add its own.
BARE: set[object] = {object.__new__, SQLModel.__new__}
VALIDATE = {of.model_validate.__func__ for of in (BaseModel, SQLModel)}  # type: ignore[attr-defined]  # class methods


class Way(NamedTuple):
    """How a record with certain columns becomes a DTO: the fields, their values in a record (None
    if these are the record's own, in its order), and the classes that each may have."""

    fields: list[str]
    pick: Callable[[Record], tuple[Any, ...]] | None
    classes: list[set[type]]

    def trusts(self, rows: Iterable[Iterable[Any]]) -> bool:
        """Whether validation would change nothing of these values."""
        for classes, column in zip(self.classes, zip(*rows, strict=True), strict=True):
            # asyncpg's UUID is a class of its own; pydantic takes each for what it is.
            found = {*map(type, column)} - classes
            if found and not (uuid.UUID in classes and _are_uuids(found)):
                return False
        return True


def _are_uuids(classes: Iterable[type]) -> bool:
    return all(issubclass(of, uuid.UUID) for of in classes)


def read(model: type[M], records: Sequence[Record]) -> list[M]:
    """The records as DTOs.

    Raises:
        TypeError: two columns have a name that the DTO takes.
    """
    if not records:
        return []
    way = _way(model, tuple(records[0].keys()))
    if way is not None and "rows" not in OFF:
        rows = [*map(way.pick, records)] if way.pick else records
        if way.trusts(rows):
            return _make(model, way.fields, rows)
    return [model.model_validate(dict(record)) for record in records]


def _make(model: type[M], fields: list[str], rows: Iterable[Iterable[Any]]) -> list[M]:
    # All of them share one set: with every name in it, nothing can be added.
    known, made = set(fields), []
    for values in rows:
        row: M = _new(model)
        _set_values(row, dict(zip(fields, values)))  # noqa: B905  # `trusts` has looked
        _set_known(row, known)
        _set_extra(row, None)
        _set_private(row, None)
        made.append(row)
    return made


@lru_cache(maxsize=1024)
def _way(model: type[BaseModel], names: tuple[str, ...]) -> Way | None:
    """The short way from these columns to the DTO, if there is one."""
    if len({*names}) < len(names):
        refuse_repeated(model, [name for name in names if names.count(name) > 1])
    fields = [*model.model_fields]
    classes = _classes_of_model(model)
    if classes is None or len(fields) < 2 or not set(fields) <= set(names):
        return None
    places = [names.index(name) for name in fields]
    pick = None if places == [*range(len(names))] else itemgetter(*places)
    return Way(fields, pick, classes)


def _classes_of_model(model: type[BaseModel]) -> list[set[type]] | None:
    """The classes that each field's values may have to be taken as they are."""
    schema: Any = model.__pydantic_core_schema__
    if set(BaseModel.__slots__) != set(_parts) or not _has(schema, "model", OF_MODEL):
        return None  # an instance has more to it than is set here, or the model has rules
    of: Any = model
    is_own = of.__init__ is SQLModel.__init__ or not schema.get("custom_init")
    fields, config = schema["schema"], schema.get("config", {})
    is_known = (
        is_own and of.__new__ in BARE and getattr(of.model_validate, "__func__", None) in VALIDATE
    )
    if not is_known or schema.get("root_model") or not config.keys() <= OF_CONFIG:
        return None
    if not _has(fields, "model-fields", OF_FIELDS) or [*fields["fields"]] != [*model.model_fields]:
        return None
    classes = [_classes_of_field(field) for field in fields["fields"].values()]
    return None if None in classes else [each for each in classes if each]


def _classes_of_field(field: Mapping[str, Any]) -> set[type] | None:
    if not _has(field, "model-field", OF_FIELD):
        return None
    schema, none = field["schema"], set[type]()
    if _has(schema, "default", OF_DEFAULT):
        schema = schema["schema"]
    if _has(schema, "nullable", OF_NULLABLE):
        schema, none = schema["schema"], {NoneType}
    plain = {key: value for key, value in schema.items() if key not in BESIDE}
    return next(({of, *none} for known, of in SCHEMAS if plain == known), None)


def _has(schema: Mapping[str, Any], kind: str, parts: set[str]) -> bool:
    return schema["type"] == kind and schema.keys() <= parts
