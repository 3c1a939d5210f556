"""Hints about rows in the OpenAPI document: the table that a field refers to (`x-ref`), and the
field that is a row's label (`x-label`)."""

import re
from itertools import chain
from typing import Any

from sqlalchemy import Column, Integer, Table
from sqlmodel import SQLModel

from kernel.http.schemas import Schema, fields, objects, parameters, schemas_of, types_of

REFERENCE, LABEL = "x-ref", "x-label"
NO_LABEL = {"format", "enum", "const", REFERENCE}
ROW_PATH = re.compile(r"[^{]*/([^/{]+)/\{[^/]*\}")
Rows = dict[str, tuple[str, set[str]]]


def add_references(paths: Schema, schemas: Schema) -> None:
    """Add the hints to the fields of bodies and responses, and to query parameters."""
    rows = _rows(paths)
    for path, item in paths.items():
        for method, operation in item.items():
            object_schemas = list(objects(schemas_of(operation), schemas, set()))
            for group in (*map(fields, object_schemas), parameters(operation, "query")):
                for name, field in group.items():
                    _refer(name, field, table_of(path), rows)
            for schema in object_schemas if method == "get" else ():
                _label(schema)


def table_of(path: str) -> Table | None:
    """The table that the path is about: of its segments, the last one that is a table's name."""
    tables = SQLModel.metadata.tables
    words = [word.replace("-", "_") for word in path.split("/")]
    return next((tables[word] for word in reversed(words) if word in tables), None)


def targets(name: str, table: Table | None) -> set[Column[Any]]:
    """The columns that a column of this name refers to, in the path's table or, if that has no such
    column, in all tables."""
    tables = SQLModel.metadata.tables.values() if table is None or name not in table.c else [table]
    columns = [one.c[name] for one in tables if name in one.c]
    return {key.column for column in columns for key in column.foreign_keys}


def _rows(paths: Schema) -> Rows:
    """By table: the path of one row, and the types of its only parameter."""
    rows: Rows = {}
    for path, item in paths.items():
        match = ROW_PATH.fullmatch(path)
        if match and "get" in item and (table := table_of(match[1])) is not None:
            keys = parameters(item["get"], "path").values()
            rows.setdefault(table.name, (path, {*chain.from_iterable(map(types_of, keys))}))
    return rows


def _refer(name: str, field: Schema, table: Table | None, rows: Rows) -> None:
    """Add the reference that the column of the field's name has; for `tag_ids`, the column
    `tag_id`."""
    types = types_of(field)
    name = name.removesuffix("s") if "array" in types and name.endswith("_ids") else name
    columns = [column for column in targets(name, table) if _fits(column, types)]
    if len(columns) == 1:
        (column,) = columns
        path, keys = rows.get(column.table.name, ("", set()))
        is_key = column.primary_key and _fits(column, keys)
        reference = {"table": column.table.name} | ({"path": path} if is_key else {})
        field.setdefault(REFERENCE, reference)


def _fits(column: Column[Any], types: set[str]) -> bool:
    return ("integer" if isinstance(column.type, Integer) else "string") in types


def _label(schema: Schema) -> None:
    """Mark the label of a row: its first required text, unless the slice has marked a field."""
    row_fields = fields(schema)
    if "id" not in row_fields or any(LABEL in field for field in row_fields.values()):
        return
    for name in schema.get("required", ()):
        field = row_fields.get(name, {})
        if name != "id" and field.get("type") == "string" and field.keys().isdisjoint(NO_LABEL):
            field[LABEL] = True
            return
