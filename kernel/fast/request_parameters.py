"""The parameters of a request: where their values are, and how they are read as FastAPI does it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeGuard, get_args, get_origin

from fastapi._compat import field_annotation_is_scalar
from pydantic import (
    AliasChoices,
    BaseModel,
    GetCoreSchemaHandler,
    Json,
    RootModel,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticUndefined, core_schema

from kernel.fast.ids import plain_int


class Sources(NamedTuple):
    """Where the values are: those of the path, of the query, and the body by its name, one for
    each name; and all pairs of the query."""

    single: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path or the query, or the body: FastAPI's field, and where its value is.

    `validate` gives the argument or raises ValidationError; a required one's default is
    `PydanticUndefined`.
    """

    field: Any
    name: str
    alias: str
    source: int
    location: tuple[str, ...]
    validate: Callable[..., Any]
    default: Any

    def parse(self, sources: Sources, errors: list[Any]) -> Any:
        """The argument. What FastAPI says of a value that is not valid is added to the errors."""
        value = sources.single[self.source].get(self.alias, PydanticUndefined)
        if value is not PydanticUndefined:
            try:
                return self.validate(value, from_attributes=True)
            except ValidationError:
                errors += self.field.validate(value, loc=self.location)[1]
        elif self.default is PydanticUndefined:
            missing = {"type": "missing", "loc": self.location, "msg": "Field required"}
            errors.append({**missing, "input": None})
        return self.default


@dataclass(frozen=True, slots=True)
class QueryModel:
    """A parameter with FastAPI's field for it; `lists` are the model's fields of all values that
    are sent under a name, its other ones are of the last."""

    field: Any
    name: str
    names: tuple[str, ...]
    lists: frozenset[str]
    validate: Callable[..., Any]

    def parse(self, sources: Sources, errors: list[Any]) -> Any:
        """The argument. What FastAPI says of values that are not valid is added to the errors."""
        values = self._values(sources.pairs) if sources.pairs else {}
        try:
            return self.validate(values, from_attributes=True)
        except ValidationError:
            errors += self.field.validate(values, loc=("query",))[1]
        return None

    def _values(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """What the model is made of: its own fields first, and then all others."""
        sent: dict[str, list[str]] = {}
        for name, value in pairs:
            sent.setdefault(name, []).append(value)
        own = {
            name: sent.pop(name) if name in self.lists else sent.pop(name)[-1]
            for name in self.names
            if name in sent
        }
        for name, values in sent.items():
            own[name] = values[0] if len(values) == 1 else values
        return own


@dataclass(frozen=True)
class ReadsNumbers:
    """Marks a model of parameters, whose fields of these names are whole numbers."""

    names: frozenset[str]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._read, handler(source))

    def _read(self, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {k: _number(v) if k in self.names else v for k, v in given.items()}


def _number(sent: Any) -> Any:
    """The number of a text; what is none stays text, which the field's own type refuses."""
    if isinstance(sent, list):
        return [*map(_number, sent)]
    try:
        return int(plain_int(sent)) if isinstance(sent, str) else sent
    except ValueError:
        return sent


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The model whose fields are parameters, if the annotation is one, or one or None."""
    return [each for each in (annotation, *get_args(annotation)) if is_model(each)]


@cache
def request_names(model: type[BaseModel]) -> frozenset[str]:
    """What clients may call the fields of the model."""
    return frozenset().union(*[names_of(*each) for each in model.model_fields.items()])


def names_of(name: str, field: FieldInfo) -> frozenset[str]:
    """What clients may call a field."""
    alias = field.validation_alias or field.alias or name
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return frozenset(choice for choice in choices if isinstance(choice, str))


def is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    """Whether FastAPI reads each of its fields as a parameter."""
    if not isinstance(annotation, type) or issubclass(annotation, RootModel):
        return False
    return issubclass(annotation, BaseModel)


def lists_of(model: type[BaseModel]) -> frozenset[str]:
    """The fields of a model that take all values of their name."""
    return frozenset(name for name, field in model.model_fields.items() if is_list(field))


def is_scalar(field: FieldInfo) -> bool:
    return bool(field_annotation_is_scalar(field.annotation))


def is_list(field: FieldInfo) -> bool:
    """Whether it is of a list, which may be missing."""
    parts = [part for part in get_args(field.annotation) if part is not type(None)]
    is_optional = len(parts) == 1 and get_origin(parts[0]) is list
    is_json = any(type(rule) is Json for rule in field.metadata)
    return not is_json and (get_origin(field.annotation) is list or is_optional)
