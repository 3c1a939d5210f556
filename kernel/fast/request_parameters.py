"""The parameters of an operation, read from a request as FastAPI reads them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard, get_args, get_origin

from fastapi._compat import field_annotation_is_scalar
from pydantic import (
    BaseModel,
    GetCoreSchemaHandler,
    Json,
    RootModel,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticUndefined, core_schema

from kernel.fast.inputs import plain_int


class Sources(NamedTuple):
    """The values in a request. `single` has one value per name: of the path, of the query (the
    last), and the body under its parameter's name. `pairs` has all pairs of the query."""

    single: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the path or the query, or the body, with FastAPI's field for it.

    `source` is the index of its values in `Sources.single`; `validate` returns the argument or
    raises ValidationError; the default of a required parameter is `PydanticUndefined`.
    """

    field: Any
    name: str
    alias: str
    source: int
    location: tuple[str, ...]
    validate: Callable[..., Any]
    default: Any

    def parse(self, sources: Sources, errors: list[Any]) -> Any:
        """Return the argument; add FastAPI's errors about an invalid value to `errors`."""
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
    """A model of query parameters, with FastAPI's field for it. Fields in `lists` get all values
    that were sent under their name, other fields the last one."""

    field: Any
    name: str
    names: tuple[str, ...]
    lists: frozenset[str]
    validate: Callable[..., Any]

    def parse(self, sources: Sources, errors: list[Any]) -> Any:
        """Return the argument; add FastAPI's errors about invalid values to `errors`."""
        values = self._values(sources.pairs) if sources.pairs else {}
        try:
            return self.validate(values, from_attributes=True)
        except ValidationError:
            errors += self.field.validate(values, loc=("query",))[1]
        return None

    def _values(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The input of the model: its own fields first, then the names that it does not have."""
        sent: dict[str, list[str]] = {}
        for name, value in pairs:
            sent.setdefault(name, []).append(value)
        data = {
            name: sent.pop(name) if name in self.lists else sent.pop(name)[-1]
            for name in self.names
            if name in sent
        }
        for name, values in sent.items():
            data[name] = values[0] if len(values) == 1 else values
        return data


@dataclass(frozen=True)
class ReadsNumbers:
    """Marks a model of parameters: its fields of these names read integers from text."""

    names: frozenset[str]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._read, handler(source))

    def _read(self, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {k: _number(v) if k in self.names else v for k, v in data.items()}


def _number(value: Any) -> Any:
    """The integer in a text. Any other text stays as it is, and the field's type refuses it."""
    if isinstance(value, list):
        return [*map(_number, value)]
    try:
        return int(plain_int(value)) if isinstance(value, str) else value
    except ValueError:
        return value


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The models in an annotation such as `Model` or `Model | None`."""
    return [part for part in (annotation, *get_args(annotation)) if is_model(part)]


def is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    """Whether FastAPI reads each of its fields as a parameter."""
    if not isinstance(annotation, type) or issubclass(annotation, RootModel):
        return False
    return issubclass(annotation, BaseModel)


def lists_of(model: type[BaseModel]) -> frozenset[str]:
    """The names of a model's list fields, which get all values that were sent under their name."""
    return frozenset(name for name, field in model.model_fields.items() if is_list(field))


def is_scalar(field: FieldInfo) -> bool:
    return bool(field_annotation_is_scalar(field.annotation))


def is_list(field: FieldInfo) -> bool:
    """Whether the field is a list, or a list or None."""
    parts = [part for part in get_args(field.annotation) if part is not type(None)]
    is_optional = len(parts) == 1 and get_origin(parts[0]) is list
    return not is_json(field.metadata) and (get_origin(field.annotation) is list or is_optional)


def is_json(metadata: Iterable[Any]) -> bool:
    """Whether the text of a parameter is JSON, which has lists and numbers of its own."""
    return any(type(item) is Json for item in metadata)
