"""The schemas of an OpenAPI document: those of an operation, and what they are made of."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

Schema = dict[str, Any]
COMPONENTS = "#/components/schemas/"
ITEM_SCHEMA = "x-itemSchema"
"""What each part of a stream is."""
SEVERAL, ONE = ("anyOf", "oneOf", "allOf", "prefixItems"), ("items", "additionalProperties", "not")


def schemas_of(operation: Schema) -> Iterator[Schema]:
    """The operation's own, of its body, its answers and its parameters; references unresolved."""
    answers = operation["responses"].values()
    for part in (operation.get("requestBody", {}), *answers):
        for content in part.get("content", {}).values():
            yield from (content[name] for name in ("schema", ITEM_SCHEMA) if name in content)
    headers = chain.from_iterable(each.get("headers", {}).values() for each in answers)
    for part in chain(operation.get("parameters", ()), headers):
        yield from (part["schema"],) if "schema" in part else ()


def parameters(operation: Schema, place: str) -> dict[str, Schema]:
    """The schemas of the parameters in `path`, `query` or `header`, by their names."""
    given = [each for each in operation.get("parameters", ()) if each.get("in") == place]
    return {each["name"]: each["schema"] for each in given if "schema" in each}


def fields(schema: Schema) -> dict[str, Schema]:
    """Those of an object. (A schema may also be true or false.)"""
    named = schema.get("properties", {}).items()
    return {name: field for name, field in named if isinstance(field, dict)}


def within(schemas: Iterable[Schema]) -> Iterator[Schema]:
    """The schemas and all that they are made of; references unresolved."""
    for schema in schemas:
        yield schema
        parts = [*fields(schema).values(), *(schema.get(name) for name in (*ONE, "contentSchema"))]
        parts += chain.from_iterable(schema.get(name, ()) for name in SEVERAL)
        yield from within(part for part in parts if isinstance(part, dict))


def objects(schemas: Iterable[Schema], named: Schema, seen: set[str]) -> Iterator[Schema]:
    """The objects with fields in the schemas, and in those of `named` that they refer to."""
    for part in within(schemas):
        name = str(part.get("$ref", "")).removeprefix(COMPONENTS)
        if name in named and name not in seen:
            seen.add(name)
            yield from objects([named[name]], named, seen)
        if fields(part):
            yield part


def types_of(schema: Schema) -> set[str]:
    """The JSON types of its values, and of their elements."""
    types = [part.get("type") for part in within([schema])]
    return {*chain.from_iterable([it] if isinstance(it, str) else it or () for it in types)}
