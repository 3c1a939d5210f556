"""What a request may send: integers as text, and the fields of a model under their names."""

from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from typing_inspection.typing_objects import is_newtype, is_typealiastype

V = TypeVar("V")
# The types of which FastAPI reads all values that were sent under one name.
COLLECTIONS = {list, set, frozenset, tuple, deque, Sequence}


def plain_int(value: V) -> V:
    """The value, unless it is text that int() accepts and JSON does not.

    Raises:
        ValueError: it is like "1_0" or " 1", or has digits of another script.
    """
    if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdigit()):
        raise ValueError("should be an integer")
    return value


PLAIN_INT = BeforeValidator(plain_int)


@cache
def request_names(model: type[BaseModel]) -> frozenset[str]:
    """The names under which clients may send the fields of the model."""
    fields = model.model_fields.items()
    return frozenset().union(*[names_of(model, *item) for item in fields])


def names_of(model: type[BaseModel], name: str, field: FieldInfo) -> frozenset[str]:
    """The names under which clients may send a field of the model."""
    alias = field.validation_alias or field.alias or name
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    config = model.model_config
    is_named = config.get("populate_by_name") or config.get("validate_by_name")
    names = [*choices, name] if is_named else choices
    return frozenset(choice for choice in names if isinstance(choice, str))


def without_name(annotation: Any) -> Any:
    """The type that the annotation is, or that it is a name of."""
    while True:
        if is_typealiastype(annotation):
            annotation = annotation.__value__
        elif is_newtype(annotation):
            annotation = annotation.__supertype__
        else:
            return annotation
