"""Trimming: texts of a request lose the blanks around them, wherever in it they stand.

The mark `Trimmed` does nothing by itself, so that answers show what is stored. For requests, every
marked text in pydantic's schema is wrapped, also within lists, unions and models. Trimming runs
after all other validation: a maximum length counts what was sent, so that clients can check it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from itertools import count
from typing import Annotated, Any, get_type_hints

from pydantic import (
    BaseModel,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from kernel.data.lines import LINE, LINE_PATTERN, STORED_LINE

MARK, STORED, SENT = "kernel.trimmed", "stored", "sent"
FUNCTIONS = {"function-before", "function-wrap", "function-after"}
BY_NAME = {"fields", "choices"}  # dicts whose keys a team chooses, such as `type`
NO_VALIDATION = {"metadata", "default", "serialization"}
REPEATED = "{name} contains itself: in a body, only a model with lines to trim can: make it one"
TWO_LINES = "two_lines"
numbers = count(1)


class Untrimmable(TypeError):
    """A type that contains itself has a `Trimmed` text and is no model; see `trimming`."""


@dataclass(frozen=True)
class Trimmed:
    """Marks a text of one line, which in a request may have blanks around it."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema: Any = handler(source)
        return {**schema, "metadata": {**schema.get("metadata", {}), MARK: STORED}}

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # A stored text may be older than this rule, or written by another program.
        is_sent = schema.get("metadata", {}).get(MARK) == SENT
        return handler(schema) | {"pattern": LINE_PATTERN if is_sent else f"^{STORED_LINE}$"}


@dataclass
class Trims:
    """Marks a part of a request, of any type: each `Trimmed` text in it is trimmed."""

    has_found: bool = field(default=False, init=False, compare=False)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        new = trimming(schema, handler)
        self.has_found = new is not schema
        return new


def trimming(schema: CoreSchema, handler: GetCoreSchemaHandler) -> CoreSchema:
    """The schema, in which each `Trimmed` text is trimmed after its other validation.

    Raises:
        Untrimmable: there is one in a type that contains itself and is no model, such as a
            TypedDict.
    """

    return _Walk(handler, schema.get("ref", "")).part(schema)  # type: ignore[no-any-return]  # a schema, as it was


class _Walk:
    """Rewrites a schema; a part without a `Trimmed` text stays the same object."""

    def __init__(self, handler: GetCoreSchemaHandler, own_name: str) -> None:
        self._handler, self._own_name = handler, own_name
        self._above: list[str] = []
        self._repeated: set[str] = set()

    def part(self, part: Any) -> Any:
        """The part of a schema, with trimming added."""
        if isinstance(part, list):
            parts = [self.part(item) for item in part]
            is_same = all(new is old for new, old in zip(parts, part, strict=True))
            return part if is_same else parts
        if not isinstance(part, dict) or _is_trimming(part):
            return part
        if part.get("type") == "definition-ref":
            return self._defined(part)
        if _is_trimmed(part):
            # The type's JSON Schema may be made of this part or of the inner one.
            sent, is_sent = _as_sent(part), {MARK: SENT}
            return core_schema.no_info_after_validator_function(_strip, sent, metadata=is_sent)
        return _changed(part, {name: self._child(name, child) for name, child in part.items()})

    def _child(self, name: str, child: Any) -> Any:
        if name in NO_VALIDATION:
            return child
        if name in BY_NAME and isinstance(child, dict):
            return _changed(child, {key: self.part(value) for key, value in child.items()})
        return self.part(child)

    def _defined(self, part: Any) -> Any:
        """The part that a reference names: the reference if nothing changes, or else a copy."""
        name = part["schema_ref"]
        if name == self._own_name:
            return part
        if name in self._above:
            self._repeated.add(name)
            return part
        try:
            defined = self._handler.resolve_ref_schema(part)
        except LookupError:
            return part  # it is still being built: it is a body, which trims itself
        self._above.append(name)
        new = self.part(defined)
        self._above.pop()
        if new is defined:
            return part
        if _is_of_class(defined):
            # pydantic already has a validator of the class, and would use that one.
            return core_schema.no_info_after_validator_function(_strip_fields, part)
        if name in self._repeated:
            raise Untrimmable(REPEATED.format(name=name.partition(":")[0]))
        return new | {"ref": f"{name}-{next(numbers)}"}


def _changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return old if all(new[name] is old[name] for name in old) else new


def _is_of_class(part: Any) -> bool:
    while "cls" not in part and "schema" in part:
        part = part["schema"]
    kind = part.get("cls", object)
    return issubclass(kind, BaseModel) or is_dataclass(kind)


def _is_trimming(part: Mapping[str, Any]) -> bool:
    function = part.get("function")
    return isinstance(function, dict) and function.get("function") in (_strip, _strip_fields)


def _is_trimmed(part: Mapping[str, Any]) -> bool:
    """Whether it is a marked text, within any number of validator functions."""
    while part.get("type") in FUNCTIONS and MARK not in part.get("metadata", {}):
        part = part["schema"]
    return MARK in part.get("metadata", {})


def _as_sent(part: Any) -> Any:
    """The marked text as a request's: its JSON Schema has the pattern of one line."""
    if MARK in part.get("metadata", {}):
        return part | {"metadata": part["metadata"] | {MARK: SENT}}
    return part | {"schema": _as_sent(part["schema"])}


def _strip(value: Any) -> Any:
    if not isinstance(value, str):
        return value  # another validator has converted the text
    if not LINE.fullmatch(value):
        raise PydanticCustomError(TWO_LINES, "should be one line")
    return value.strip()


def _strip_fields(row: Any) -> Any:
    kind: Any = type(row)
    for name, trim in _trimmers(kind).items():
        if hasattr(row, name):
            try:
                line = trim(getattr(row, name))
            except ValidationError as error:
                _raise_two_lines(error, name)
            else:
                object.__setattr__(row, name, line)  # it may be frozen
    return row


def _raise_two_lines(error: ValidationError, name: str) -> None:
    """Raise an error with the field's name if it is no line; other rules were checked before."""
    details = error.errors(include_url=False, include_context=False)
    if any(detail["type"] == TWO_LINES for detail in details):
        kind = PydanticCustomError(TWO_LINES, "should be one line")
        line_errors: list[InitErrorDetails] = [{"type": kind, "loc": (name,), "input": None}]
        raise ValidationError.from_exception_data(error.title, line_errors) from None


@cache
def _trimmers(kind: type[Any]) -> dict[str, Callable[[Any], Any]]:
    """By name, functions that trim the fields of a model or dataclass that have such a text."""
    if issubclass(kind, BaseModel):
        types = {n: (info.annotation, *info.metadata) for n, info in kind.model_fields.items()}
    else:
        types = {n: (hint,) for n, hint in get_type_hints(kind, include_extras=True).items()}
    trimmers: dict[str, Callable[[Any], Any]] = {}
    for name, rules in types.items():
        trims = Trims()
        typed: Any = Annotated[(*rules, trims)]
        adapter: TypeAdapter[Any] = TypeAdapter(typed)
        if trims.has_found:
            trimmers[name] = adapter.validate_python
    return trimmers
