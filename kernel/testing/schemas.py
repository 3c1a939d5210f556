"""JSON Schemas of an OpenAPI document: their valid values, and the fields of nested bodies."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from kernel.testing.callers import PASSWORD

Schema = dict[str, Any]
Path = tuple[str | int, ...]
"""Where something is in a document: `("article", "tags", 0)`."""
numbers = count(1)
EVERY, SAMPLE = "additionalProperties", "sample"
_MARK = "\x00here\x00"


@dataclass(frozen=True)
class Place:
    """An object in a body that has fields."""

    path: Path
    schema: Schema = field(repr=False, compare=False)
    takes_null: bool = False


@dataclass(frozen=True)
class Field:
    """A field of an object in a body, or an element of a list or a dict that is no object."""

    path: Path
    schema: Schema = field(repr=False, compare=False)
    is_required: bool
    takes_null: bool

    @property
    def name(self) -> str:
        return str(self.path[-1])


class Schemas:
    """Reads schemas that refer to each other within one OpenAPI document."""

    def __init__(self, document: Schema) -> None:
        self._document = document

    def resolve(self, schema: Schema) -> Schema:
        """The schema behind references, and of `anyOf` or `oneOf` the first that is not null."""
        if "$ref" in schema:
            name = schema["$ref"].split("/")[-1]
            return self.resolve(self._document["components"]["schemas"][name])
        if len(parts := schema.get("allOf", [])) == 1:
            return self.resolve(parts[0] | {k: v for k, v in schema.items() if k != "allOf"})
        variants = schema.get("anyOf") or schema.get("oneOf") or []
        usable = [variant for variant in variants if variant.get("type") != "null"]
        return self.resolve(usable[0]) if usable else schema

    def takes_null(self, schema: Schema) -> bool:
        if "$ref" in schema:
            return self.takes_null(self.resolve(schema))
        variants: list[Schema] = schema.get("anyOf") or schema.get("oneOf") or []
        is_typed = bool(schema.keys() & {"type", "enum", "const", "allOf", "anyOf", "oneOf"})
        takes_null = "null" in schema.get("type", []) or any(map(self.takes_null, variants))
        return takes_null or not is_typed

    def places(
        self, schema: Schema, path: Path = (), above: tuple[int, ...] = ()
    ) -> Iterator[Place]:
        """The objects with fields in a value of this schema, the outermost first."""
        null, schema = self.takes_null(schema), self.resolve(schema)
        if id(schema) in above:  # recursive: its fields are listed already
            return
        above = (*above, id(schema))
        if "properties" in schema:
            yield Place(path, schema, null)
            for name, inner in schema["properties"].items():
                yield from self.places(inner, (*path, name), above)
        elif inner := self._element(schema):
            step, element = inner
            yield from self.places(element, (*path, step), above)

    def fields(self, schema: Schema) -> Iterator[Field]:
        """The fields of all objects in a value of this schema, and the elements of lists."""
        root = self.resolve(schema)
        yield from self._elements((), root)
        for place in self.places(root):
            required = place.schema.get("required", [])
            for name, inner in place.schema["properties"].items():
                path, null = (*place.path, name), self.takes_null(inner)
                yield Field(path, self.resolve(inner), name in required, null)
                yield from self._elements(path, self.resolve(inner))

    def _elements(self, path: Path, schema: Schema, above: tuple[int, ...] = ()) -> Iterator[Field]:
        if id(schema) in above:  # a list of such lists
            return
        if (inner := self._element(schema)) and "properties" not in self.resolve(inner[1]):
            element, path = self.resolve(inner[1]), (*path, inner[0])
            yield Field(path, element, is_required=False, takes_null=self.takes_null(inner[1]))
            yield from self._elements(path, element, (*above, id(schema)))

    def _element(self, schema: Schema) -> tuple[str | int, Schema] | None:
        """The index or key of an element of a list or dict, and the element's schema."""
        if isinstance(items := schema.get("items"), dict):
            return 0, items
        if "properties" not in schema and isinstance(every := schema.get(EVERY), dict):
            return SAMPLE, every
        return None

    def value(self, schema: Schema, *, is_change: bool = False, above: tuple[int, ...] = ()) -> Any:
        """A valid value, another one at each call where the type allows it.

        With `is_change`, an enum or a boolean is not the one without. `above` are the ids of the
        schemas around this one, where a recursive schema ends.
        """
        nullable, schema = self.takes_null(schema), self.resolve(schema)
        if id(schema) in above:
            return None if nullable else {}
        inner: dict[str, Any] = {"is_change": is_change, "above": (*above, id(schema))}
        if "properties" in schema:
            return {name: self.value(of, **inner) for name, of in schema["properties"].items()}
        if schema.get("type") == "array":
            return self._list(schema, inner)
        if isinstance(every := schema.get(EVERY), dict):
            return {SAMPLE: self.value(every, **inner)}
        return scalar(schema, next(numbers), is_change=is_change)

    def _list(self, schema: Schema, inner: dict[str, Any]) -> list[Any]:
        """A list of at least one element, or an empty one where the schema is recursive."""
        if "prefixItems" in schema:
            return [self.value(item, **inner) for item in schema["prefixItems"]]
        items = schema.get("items", {"type": "string"})
        if id(self.resolve(items)) in inner["above"] or schema.get("maxItems") == 0:
            return []
        return [self.value(items, **inner) for _ in range(max(1, schema.get("minItems", 1)))]


def scalar(schema: Schema, number: int, *, is_change: bool) -> Any:
    """A valid value that is neither a list nor an object with fields."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][-is_change]
    kind = schema.get("contentMediaType") or schema.get("format") or schema.get("type")
    values: dict[str | None, Any] = {
        "email": f"sample{number}@example.com",
        "password": PASSWORD,
        "uuid": f"00000000-0000-4000-8000-{number:012d}",
        "date": f"2030-01-{number % 28 + 1:02}",
        "date-time": f"2030-01-02T03:{number % 60:02}:05Z",
        "time": f"03:{number % 60:02}:05",
        "duration": f"PT{number}S",
        "uri": f"https://example.com/{number}",
        "integer": within(schema, number),
        "number": within(schema, number + 0.5),
        "boolean": not is_change,
        "object": {"sample": number},
        "application/octet-stream": f"sample {number}".encode(),  # a file
    }
    text = f"sample {number}".ljust(schema.get("minLength", 0), "x")
    return values.get(kind, text[: schema.get("maxLength")])


def within(schema: Schema, number: float) -> float:
    """The number within the schema's bounds, and a multiple of its `multipleOf`."""
    least: float = schema.get("minimum", schema.get("exclusiveMinimum", number - 1) + 1)
    most: float = schema.get("maximum", schema.get("exclusiveMaximum", number + 1) - 1)
    step: float = schema.get("multipleOf", 1)
    bounded = min(max(number, least), most)
    return bounded // step * step if "multipleOf" in schema else bounded


def put(document: Any, path: Path, value: Any) -> Any:
    """A copy of the document with the value at this place; missing objects and lists are added."""
    if not path:
        return value
    step, *rest = path
    if isinstance(step, int):
        elements = list(document) if isinstance(document, list) else []
        elements += [None] * (step + 1 - len(elements))
        elements[step] = put(elements[step], tuple(rest), value)
        return elements
    members = dict(document) if isinstance(document, dict) else {}
    return members | {step: put(members.get(step), tuple(rest), value)}


def drop(document: Any, path: Path) -> Any:
    """A copy of the document without the member at this place."""
    document = copy.deepcopy(document)
    *parents, last = path
    inner = document
    for step in parents:
        inner = inner[step]
    inner.pop(last, None)
    return document


def dig(document: Any, path: Path) -> Any:
    """The value at this place, or None if there is none."""
    for step in path:
        is_there = isinstance(document, dict) and step in document
        is_there |= isinstance(document, list) and isinstance(step, int) and step < len(document)
        if not is_there:
            return None
        document = document[step]
    return document


def written(document: Any, path: Path, fragment: str | bytes) -> bytes:
    """The document as JSON, with this text at the place as it is: it need not be JSON."""
    text = fragment.encode(errors="surrogatepass") if isinstance(fragment, str) else fragment
    marked = json.dumps(put(document, path, _MARK)).encode()
    return marked.replace(json.dumps(_MARK).encode(), text, 1)
