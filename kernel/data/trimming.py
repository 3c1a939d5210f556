"""Text without the blanks around it, wherever in a request it stands.

A type that is marked `Trimmed` does nothing by itself, so that answers show what is stored. What
reads a request wraps each of them, in lists, unions or models, as pydantic's schema has them. That
comes last, because a length is that of what was sent, or no client could check it.
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
BY_NAME = {"fields", "choices"}  # of names that a team chooses, such as `type`
NO_VALIDATION = {"metadata", "default", "serialization"}
REPEATED = "{name} contains itself: in a body, a model can do that whose lines are to be trimmed"
TWO_LINES = "two_lines"
numbers = count(1)


class Untrimmable(TypeError):
    """See `trimming`."""


@dataclass(frozen=True)
class Trimmed:
    """Marks text that a request may have blanks around, and that is one line between them."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema: Any = handler(source)
        return {**schema, "metadata": {**schema.get("metadata", {}), MARK: STORED}}

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # A table may have older texts, or somebody else's.
        is_sent = schema.get("metadata", {}).get(MARK) == SENT
        return handler(schema) | {"pattern": LINE_PATTERN if is_sent else f"^{STORED_LINE}$"}


@dataclass
class Trims:
    """Marks a part of a request, whatever its type: each `Trimmed` text in it is trimmed."""

    has_found: bool = field(default=False, init=False, compare=False)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        new = trimming(schema, handler)
        self.has_found = new is not schema
        return new


def trimming(schema: CoreSchema, handler: GetCoreSchemaHandler) -> CoreSchema:
    """The schema, whose texts that are `Trimmed` are so when all else has been judged.

    Raises:
        TypeError: there is one in a TypedDict or the like that contains itself.
    """

    return _Walk(handler, schema.get("ref", "")).part(schema)  # type: ignore[no-any-return]  # alike


class _Walk:
    """Through a schema; what there is nothing to do in stays the same object."""

    def __init__(self, handler: GetCoreSchemaHandler, own_name: str) -> None:
        self._handler, self._own_name = handler, own_name
        self._above: list[str] = []
        self._repeated: set[str] = set()

    def part(self, part: Any) -> Any:
        """The part of a schema, trimming."""
        if isinstance(part, list):
            parts = [self.part(each) for each in part]
            is_same = all(new is old for new, old in zip(parts, part, strict=True))
            return part if is_same else parts
        if not isinstance(part, dict) or _is_trimming(part):
            return part
        if part.get("type") == "definition-ref":
            return self._defined(part)
        if _is_trimmed(part):
            return core_schema.no_info_after_validator_function(_strip, _as_sent(part))
        return _changed(part, {name: self._child(name, each) for name, each in part.items()})

    def _child(self, name: str, child: Any) -> Any:
        if name in NO_VALIDATION:
            return child
        if name in BY_NAME and isinstance(child, dict):
            return _changed(child, {own: self.part(each) for own, each in child.items()})
        return self.part(child)

    def _defined(self, part: Any) -> Any:
        """What a name stands for: the name where there is nothing to do, or else a copy."""
        name = part["schema_ref"]
        if name == self._own_name:
            return part
        if name in self._above:
            self._repeated.add(name)
            return part
        try:
            defined = self._handler.resolve_ref_schema(part)
        except LookupError:
            return part  # it is being made, and is a body's itself
        self._above.append(name)
        new = self.part(defined)
        self._above.pop()
        if new is defined:
            return part
        if _is_of_class(defined):
            # pydantic has a validator for each class already, and would take that.
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
    """Whether it is a marked text, behind whatever functions judge it."""
    while part.get("type") in FUNCTIONS and MARK not in part.get("metadata", {}):
        part = part["schema"]
    return MARK in part.get("metadata", {})


def _as_sent(part: Any) -> Any:
    """The marked text, whose pattern tells of one line."""
    if MARK in part.get("metadata", {}):
        return part | {"metadata": part["metadata"] | {MARK: SENT}}
    return part | {"schema": _as_sent(part["schema"])}


def _strip(value: Any) -> Any:
    if not isinstance(value, str):
        return value  # its rules have made something else of the text
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
    """Tell of a field that it is no line; of its other rules, all have been kept to before."""
    details = error.errors(include_url=False, include_context=False)
    if any(each["type"] == TWO_LINES for each in details):
        kind = PydanticCustomError(TWO_LINES, "should be one line")
        line_errors: list[InitErrorDetails] = [{"type": kind, "loc": (name,), "input": None}]
        raise ValidationError.from_exception_data(error.title, line_errors) from None


@cache
def _trimmers(kind: type[Any]) -> dict[str, Callable[[Any], Any]]:
    """What trims the fields of a model or a dataclass, where there is something to trim."""
    if issubclass(kind, BaseModel):
        known = {n: (each.annotation, *each.metadata) for n, each in kind.model_fields.items()}
    else:
        known = {n: (hint,) for n, hint in get_type_hints(kind, include_extras=True).items()}
    trimmers: dict[str, Callable[[Any], Any]] = {}
    for name, rules in known.items():
        trims = Trims()
        typed: Any = Annotated[(*rules, trims)]
        adapter: TypeAdapter[Any] = TypeAdapter(typed)
        if trims.has_found:
            trimmers[name] = adapter.validate_python
    return trimmers
