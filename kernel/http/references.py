"""What the OpenAPI document says of rows: which ones a field refers to (`x-ref`), and what one is
called by (`x-label`)."""

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
    """Say it of the fields of bodies and answers, and of the parameters of queries."""
    rows = _rows(paths)
    for path, item in paths.items():
        for method, operation in item.items():
            found = list(objects(schemas_of(operation), schemas, set()))
            for named in (*map(fields, found), parameters(operation, "query")):
                for name, field in named.items():
                    _refer(name, field, table_of(path), rows)
            for schema in found if method == "get" else ():
                _label(schema)


def table_of(path: str) -> Table | None:
    """The table that the path is about: the last of its words that is the name of one."""
    tables = SQLModel.metadata.tables
    words = [word.replace("-", "_") for word in path.split("/")]
    return next((tables[word] for word in reversed(words) if word in tables), None)


def targets(name: str, table: Table | None) -> set[Column[Any]]:
    """The columns whose values a column of this name holds; of a path's own table, or else of all
    that have one."""
    own = [] if table is None or name not in table.c else [table]
    columns = [each.c[name] for each in own or SQLModel.metadata.tables.values() if name in each.c]
    return {key.column for column in columns for key in column.foreign_keys}


def _rows(paths: Schema) -> Rows:
    """By table, the path of one row, and the types of its only parameter."""
    found: Rows = {}
    for path, item in paths.items():
        match = ROW_PATH.fullmatch(path)
        if match and "get" in item and (table := table_of(match[1])) is not None:
            keys = parameters(item["get"], "path").values()
            found.setdefault(table.name, (path, {*chain.from_iterable(map(types_of, keys))}))
    return found


def _refer(name: str, field: Schema, table: Table | None, rows: Rows) -> None:
    """Say which row the field refers to: as the column of its name does, or as that of `tag_id`
    for `tag_ids`."""
    types = types_of(field)
    name = name.removesuffix("s") if "array" in types and name.endswith("_ids") else name
    columns = [column for column in targets(name, table) if _fits(column, types)]
    if len(columns) == 1:
        (column,) = columns
        path, keys = rows.get(column.table.name, ("", set()))
        is_key = column.primary_key and _fits(column, keys)
        known = {"table": column.table.name} | ({"path": path} if is_key else {})
        field.setdefault(REFERENCE, known)


def _fits(column: Column[Any], types: set[str]) -> bool:
    return ("integer" if isinstance(column.type, Integer) else "string") in types


def _label(schema: Schema) -> None:
    """A row is called by its first text that is always there, unless the slice says another one."""
    named = fields(schema)
    if "id" not in named or any(LABEL in field for field in named.values()):
        return
    for name in schema.get("required", ()):
        field = named.get(name, {})
        if name != "id" and field.get("type") == "string" and field.keys().isdisjoint(NO_LABEL):
            field[LABEL] = True
            return
