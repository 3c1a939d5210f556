"""What tools need of the OpenAPI document, and FastAPI does not say: names for choices, which
fields are files, what row a field refers to (`x-ref`), and what a row is called by (`x-label`)."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from sqlalchemy import Column, Table
from sqlmodel import SQLModel

from kernel.data.models import BIGINT_MAX

Schema = dict[str, Any]
Rows = dict[str, tuple[str, Schema]]
COMPONENTS = "#/components/schemas/"
SUBSCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
NAMES, REFERENCE, LABEL = "x-enum-varnames", "x-ref", "x-label"
ROW_PATH = re.compile(r"[^{]*/([^/{]+)/\{[^/]*\}")
NO_LABEL = {"format", "enum", "const", REFERENCE}
WORD = re.compile(r"[A-Za-z]\w*", re.ASCII)
BYTES: Schema = {"type": "string", "format": "binary"}


def add_hints(document: Schema) -> None:
    """Add them; what a slice says itself (`Field(schema_extra={"json_schema_extra": …})`) stays."""
    paths, schemas = document["paths"], document.get("components", {}).get("schemas", {})
    everything = list(chain.from_iterable(item.values() for item in paths.values()))
    for answer in chain.from_iterable(each["responses"].values() for each in everything):
        _say_text_or_bytes(answer.get("content", {}))
    for schema in _within([*chain.from_iterable(map(_schemas_of, everything)), *schemas.values()]):
        _name_choices(schema)
        _mark_file(schema)
        _round_bounds(schema)
    rows = row_paths(paths)
    for path, item in paths.items():
        for method, operation in item.items():
            _refer(operation, schemas, table_of(path), rows, is_read=method == "get")


def table_of(path: str) -> Table | None:
    """The table that the path is about: the last of its words that is the name of one."""
    tables = SQLModel.metadata.tables
    words = [word.replace("-", "_") for word in path.split("/")]
    return next((tables[word] for word in reversed(words) if word in tables), None)


def row_paths(paths: dict[str, Schema]) -> Rows:
    """By table, the path of one row, and its only parameter."""
    found: Rows = {}
    for path, item in paths.items():
        match = ROW_PATH.fullmatch(path)
        if match and "get" in item and (table := table_of(match[1])) is not None:
            parameters = item["get"].get("parameters", ())
            key = next(each["schema"] for each in parameters if each["in"] == "path")
            found.setdefault(table.name, (path, key))
    return found


def _schemas_of(operation: Schema) -> Iterator[Schema]:
    """Those that the operation has, unresolved."""
    answers = operation["responses"].values()
    contents = [part.get("content", {}) for part in (operation.get("requestBody", {}), *answers)]
    headers = chain.from_iterable(each.get("headers", {}).values() for each in answers)
    for content in chain.from_iterable(each.values() for each in contents):
        yield from (content[name] for name in ("schema", "itemSchema") if name in content)
    for part in chain(operation.get("parameters", ()), headers):
        yield from (part["schema"],) if "schema" in part else ()


def _within(schemas: Iterable[Schema]) -> Iterator[Schema]:
    """The schemas and all that they are made of; what they refer to is elsewhere."""
    for schema in schemas:
        yield schema
        parts = [*schema.get("properties", {}).values()]
        parts += chain.from_iterable(schema.get(name, ()) for name in SUBSCHEMAS)
        parts += (schema.get(name) for name in ("items", "additionalProperties", "contentSchema"))
        yield from _within(part for part in parts if isinstance(part, dict))


def _say_text_or_bytes(content: Schema) -> None:
    """An answer of a media type alone, `{"text/csv": {}}`, is text or bytes."""
    for media_type, described in content.items():
        if not described and "json" not in media_type:
            is_text = media_type.startswith("text/")
            described["schema"] = {"type": "string"} if is_text else {**BYTES}


def _name_choices(schema: Schema) -> None:
    """Names for choices that make none, such as "-id": a client would call it VALUE_1."""
    choices = schema.get("enum", ())
    is_text = all(isinstance(choice, str) for choice in choices)
    if NAMES in schema or not is_text or all(map(WORD.fullmatch, choices)):
        return
    names = [_name_of(choice) for choice in choices]
    if all(map(WORD.fullmatch, names)) and len({*names}) == len(names):
        schema[NAMES] = names


def _name_of(choice: str) -> str:
    """ "-due,title" is an order, and DUE_DESC_TITLE."""
    descending = re.sub(r"(^|,)-(\w+)", r"\1\2_desc", choice)
    name = "_".join(re.findall(r"\w+", descending)).upper()
    return f"VALUE_{name}" if name[:1].isdecimal() else name


def _mark_file(schema: Schema) -> None:
    """Most tools know OpenAPI 3.0's word for a file, beside that of JSON Schema."""
    if schema.get("contentMediaType") == "application/octet-stream":
        schema.setdefault("format", "binary")


def _round_bounds(schema: Schema) -> None:
    """FastAPI makes 9.223372036854776e+18 of 2⁶³-1, which is one more."""
    if schema.get("type") == "integer":
        for name in BOUNDS:
            if isinstance(bound := schema.get(name), float) and bound.is_integer():
                schema[name] = min(int(bound), BIGINT_MAX)


def _refer(
    operation: Schema, schemas: Schema, table: Table | None, rows: Rows, *, is_read: bool
) -> None:
    """Say which rows the operation's fields refer to, and what those that it gives are called."""
    objects = list(_objects(_schemas_of(operation), schemas, set()))
    fields = [*chain.from_iterable(each["properties"].items() for each in objects)]
    parameters = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
    for name, field in [*fields, *((each["name"], each["schema"]) for each in parameters)]:
        if (column := _target(name, field, table)) is not None:
            path, key = rows.get(column.table.name, ("", {}))
            is_key = column.primary_key and _fits(column, {key.get("type")})
            reference = {"table": column.table.name} | ({"path": path} if is_key else {})
            field.setdefault(REFERENCE, reference)
    for each in objects if is_read else ():
        _label(each)


def _objects(parts: Iterable[Schema], schemas: Schema, seen: set[str]) -> Iterator[Schema]:
    """The objects with fields among the schemas, and among what they refer to."""
    for part in _within(parts):
        name = str(part.get("$ref", "")).removeprefix(COMPONENTS)
        if name in schemas and name not in seen:
            seen.add(name)
            yield from _objects([schemas[name]], schemas, seen)
        if "properties" in part:
            yield part


def _target(name: str, field: Schema, table: Table | None) -> Column[Any] | None:
    """The column that the field's values are of: as the column of its name has it, or as that of
    `tag_id` for `tag_ids`; in the operation's own table, or else in all that have one."""
    kinds = {part.get("type") for part in _within([field])}
    name = name.removesuffix("s") if "array" in kinds and name.endswith("_ids") else name
    own = [] if table is None or name not in table.c else [table]
    columns = [each.c[name] for each in own or SQLModel.metadata.tables.values() if name in each.c]
    keys = chain.from_iterable(column.foreign_keys for column in columns)
    targets = {key.column for key in keys if _fits(key.column, kinds)}
    return targets.pop() if len(targets) == 1 else None


def _fits(column: Column[Any], kinds: set[Any]) -> bool:
    return ("integer" if column.type.python_type is int else "string") in kinds


def _label(schema: Schema) -> None:
    """A row is called by its first text that is always there, unless the slice says another one."""
    fields = schema["properties"]
    if "id" not in fields or any(LABEL in field for field in fields.values()):
        return
    for name in schema.get("required", ()):
        is_text = fields[name].get("type") == "string" and name != "id"
        if is_text and fields[name].keys().isdisjoint(NO_LABEL):
            fields[name][LABEL] = True
            return
