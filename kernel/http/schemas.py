"""Walks over the schemas of an OpenAPI document: those of an operation, and their parts."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

Schema = dict[str, Any]
COMPONENTS = "#/components/schemas/"
ITEM_SCHEMA = "x-itemSchema"
"""The key of the schema of a stream's items."""
SEVERAL, ONE = ("anyOf", "oneOf", "allOf", "prefixItems"), ("items", "additionalProperties", "not")


def schemas_of(operation: Schema) -> Iterator[Schema]:
    """The schemas of the operation's body, responses and parameters; references unresolved."""
    responses = operation["responses"].values()
    for part in (operation.get("requestBody", {}), *responses):
        for content in part.get("content", {}).values():
            yield from (content[name] for name in ("schema", ITEM_SCHEMA) if name in content)
    headers = chain.from_iterable(response.get("headers", {}).values() for response in responses)
    for part in chain(operation.get("parameters", ()), headers):
        yield from (part["schema"],) if "schema" in part else ()


def parameters(operation: Schema, place: str) -> dict[str, Schema]:
    """The schemas of the parameters in `path`, `query` or `header`, by their names."""
    return {
        parameter["name"]: parameter["schema"]
        for parameter in operation.get("parameters", ())
        if parameter.get("in") == place and "schema" in parameter
    }


def fields(schema: Schema) -> dict[str, Schema]:
    """The schemas of an object's fields. (Those that are `true` or `false` are left out.)"""
    properties = schema.get("properties", {}).items()
    return {name: field for name, field in properties if isinstance(field, dict)}


def within(schemas: Iterable[Schema]) -> Iterator[Schema]:
    """The schemas and all of their subschemas; references unresolved."""
    for schema in schemas:
        yield schema
        parts = [*fields(schema).values(), *(schema.get(name) for name in (*ONE, "contentSchema"))]
        parts += chain.from_iterable(schema.get(name, ()) for name in SEVERAL)
        yield from within(part for part in parts if isinstance(part, dict))


def objects(schemas: Iterable[Schema], named: Schema, seen: set[str]) -> Iterator[Schema]:
    """The schemas of objects with fields, in these and in those of `named` that they refer to."""
    for part in within(schemas):
        name = str(part.get("$ref", "")).removeprefix(COMPONENTS)
        if name in named and name not in seen:
            seen.add(name)
            yield from objects([named[name]], named, seen)
        if fields(part):
            yield part


def types_of(schema: Schema) -> set[str]:
    """The JSON types of the schema's values, and of their elements."""
    types = [part.get("type") for part in within([schema])]
    return {*chain.from_iterable([kind] if isinstance(kind, str) else kind or () for kind in types)}
