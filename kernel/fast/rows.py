"""Makes DTOs of rows, with the same result as pydantic's validation.

Validation is skipped only where it would change nothing: each field has a column, its schema is
that of a plain type, and each value is of exactly that class. The values themselves decide, not the
column's declaration, so an outer join or a function that returns another type is safe.
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
# The slots of every instance of a model; their descriptors set them without a lookup by name.
_slots = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
_set_values, _set_fields_set, _set_extra, _set_private = (
    vars(BaseModel)[slot].__set__ for slot in _slots
)
# pydantic returns every value of one of these classes unchanged.
PLAIN = (int, str, bool, bytes, float, date, datetime, time, timedelta, uuid.UUID)
SCHEMAS: list[tuple[Any, type]] = [(TypeAdapter[Any](cls).core_schema, cls) for cls in PLAIN]
# The members of a core schema that do not change the validation of a value.
NEUTRAL = {"metadata", "ref", "serialization"}
OF_MODEL = NEUTRAL | {"type", "cls", "schema", "config", "custom_init", "root_model"}
OF_FIELDS = NEUTRAL | {"type", "fields", "model_name", "computed_fields"}
OF_FIELD = NEUTRAL | {"type", "schema", "frozen", "serialization_alias", "serialization_exclude"}
OF_DEFAULT = NEUTRAL | {"type", "schema", "default", "default_factory", "copy_default"}
OF_NULLABLE = NEUTRAL | {"type", "schema"}
OF_CONFIG = {"title", "from_attributes"}
# The `__new__` methods that only make an instance; a base class may add its own.
BARE_NEW: set[object] = {object.__new__, SQLModel.__new__}
VALIDATE = {cls.model_validate.__func__ for cls in (BaseModel, SQLModel)}  # type: ignore[attr-defined]  # class methods


class Shortcut(NamedTuple):
    """How a record with certain columns becomes a DTO without validation.

    `pick` takes the values of the fields from a record (None: the record's values are just these,
    in order); `classes` are those that each field's value may have.
    """

    fields: list[str]
    pick: Callable[[Record], tuple[Any, ...]] | None
    classes: list[set[type]]

    def is_valid(self, rows: Iterable[Iterable[Any]]) -> bool:
        """Whether validation would return all of these values unchanged."""
        for classes, column in zip(self.classes, zip(*rows, strict=True), strict=True):
            # asyncpg has a subclass of UUID; pydantic keeps its values as they are.
            others = {*map(type, column)} - classes
            if others and not (uuid.UUID in classes and _are_uuids(others)):
                return False
        return True


def _are_uuids(classes: Iterable[type]) -> bool:
    return all(issubclass(cls, uuid.UUID) for cls in classes)


def read(model: type[M], records: Sequence[Record]) -> list[M]:
    """Make DTOs of the records.

    Raises:
        TypeError: two columns have the name of one field of the DTO.
    """
    if not records:
        return []
    shortcut = _shortcut(model, tuple(records[0].keys()))
    if shortcut is not None and "rows" not in OFF:
        rows = [*map(shortcut.pick, records)] if shortcut.pick else records
        if shortcut.is_valid(rows):
            return _make(model, shortcut.fields, rows)
    return [model.model_validate(dict(record)) for record in records]


def _make(model: type[M], fields: list[str], rows: Iterable[Iterable[Any]]) -> list[M]:
    # They share one set: every name is in it, so an assignment to a field adds nothing to it.
    fields_set, made = set(fields), []
    for values in rows:
        row: M = _new(model)
        _set_values(row, dict(zip(fields, values)))  # noqa: B905  # `is_valid` has checked the lengths
        _set_fields_set(row, fields_set)
        _set_extra(row, None)
        _set_private(row, None)
        made.append(row)
    return made


@lru_cache(maxsize=1024)
def _shortcut(model: type[BaseModel], names: tuple[str, ...]) -> Shortcut | None:
    """How these columns become the DTO without validation, or None if it may be needed."""
    if len({*names}) < len(names):
        refuse_repeated(model, [name for name in names if names.count(name) > 1])
    fields = [*model.model_fields]
    classes = _classes_of_model(model)
    if classes is None or len(fields) < 2 or not set(fields) <= set(names):
        return None
    places = [names.index(name) for name in fields]
    pick = None if places == [*range(len(names))] else itemgetter(*places)
    return Shortcut(fields, pick, classes)


def _classes_of_model(model: type[BaseModel]) -> list[set[type]] | None:
    """The classes of values that need no validation, by field; None if one always needs it."""
    schema: Any = model.__pydantic_core_schema__
    if set(BaseModel.__slots__) != set(_slots) or not _has(schema, "model", OF_MODEL):
        return None  # instances have further slots, or the model has validators of its own
    cls: Any = model
    is_plain_init = cls.__init__ is SQLModel.__init__ or not schema.get("custom_init")
    validate = getattr(cls.model_validate, "__func__", None)
    fields, config = schema["schema"], schema.get("config", {})
    is_known = is_plain_init and cls.__new__ in BARE_NEW and validate in VALIDATE
    if not is_known or schema.get("root_model") or not config.keys() <= OF_CONFIG:
        return None
    if not _has(fields, "model-fields", OF_FIELDS) or [*fields["fields"]] != [*model.model_fields]:
        return None
    classes = [_classes_of_field(field) for field in fields["fields"].values()]
    return None if None in classes else [item for item in classes if item]


def _classes_of_field(field: Mapping[str, Any]) -> set[type] | None:
    if not _has(field, "model-field", OF_FIELD):
        return None
    schema, none = field["schema"], set[type]()
    if _has(schema, "default", OF_DEFAULT):
        schema = schema["schema"]
    if _has(schema, "nullable", OF_NULLABLE):
        schema, none = schema["schema"], {NoneType}
    plain = {key: value for key, value in schema.items() if key not in NEUTRAL}
    return next(({cls, *none} for known, cls in SCHEMAS if plain == known), None)


def _has(schema: Mapping[str, Any], kind: str, members: set[str]) -> bool:
    return schema["type"] == kind and schema.keys() <= members
