"""The row that a URL names, by the last key in its path."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlmodel import AutoString, SQLModel

BITS = {SmallInteger: 16, Integer: 32, BigInteger: 64}
NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII)


@dataclass(frozen=True)
class NamedRow:
    """The last key of a path, its parameter's name, and the table whose name precedes it: of
    `/orders/{order_id}/lines/{line_id}` they are that of `line_id` and `lines`. `key` and `table`
    may be None."""

    key: str | None = None
    name: str = ""
    table: Table | None = None

    @classmethod
    def of(cls, path: str, template: str, path_params: Mapping[str, Any]) -> "NamedRow":
        """That of a request's path. The route's template may lack the prefix of its router."""
        if not path_params:
            return cls()
        name, key = list(path_params.items())[-1]
        suffix = template.rpartition("}")[2]
        word = path.removesuffix(suffix).removesuffix(str(key)).rstrip("/").rpartition("/")[2]
        table = SQLModel.metadata.tables.get(word.replace("-", "_"))
        return cls(str(key), name, table if table is not None and has_version(table) else None)

    def places(self) -> list[tuple[Column[Any], Any]]:
        """The columns of the table that may hold the key, with the key as a value of each."""
        if self.table is None or self.key is None:
            return []
        values = [(column, value_of(self.key, column)) for column in self._columns(self.table)]
        return [(column, value) for column, value in values if value is not None]

    def is_of(self, table: Table, row: Mapping[str, Any]) -> bool:
        """Whether the row, of this table, has the key."""
        named = [table.c[self.name]] if self.name in table.c else self._columns(table)
        return self.key is not None and any(
            column.name in row and value_of(self.key, column) == row[column.name]
            for column in named
            if row.get(column.name) is not None
        )

    def _columns(self, table: Table) -> list[Column[Any]]:
        """The columns that may hold the key: the parameter's namesake; or the primary key, for a
        parameter that ends in `_id`; or else all unique columns."""
        unique = list(unique_columns(table))
        if self.name in table.c:
            return [column for column in unique if column.name == self.name]
        return unique[:1] if self.name.endswith("_id") else unique


@cache
def has_version(table: Table) -> bool:
    """Whether the table has a version column and a primary key of one column."""
    return "version" in table.c and len(table.primary_key) == 1


def key_of(table: Table) -> Column[Any]:
    """The primary key's one column."""
    (column,) = table.primary_key
    return column


def unique_columns(table: Table) -> Iterator[Column[Any]]:
    """The columns that are unique by themselves: the primary key's first."""
    yield from table.primary_key
    rules = [list(rule.columns) for rule in table.constraints if isinstance(rule, UniqueConstraint)]
    indexes = [list(index.columns) for index in table.indexes if index.unique]
    yield from (columns[0] for columns in (*rules, *indexes) if len(columns) == 1)


def value_of(key: str, column: Column[Any]) -> int | str | UUID | None:
    """The key of a path as a value of the column, or None if it cannot be one."""
    kind = type(column.type)
    if kind in BITS:
        number = int(key) if NUMBER.fullmatch(key) else None
        return number if number is not None and abs(number) < 2 ** (BITS[kind] - 1) else None
    if kind in {String, Text, AutoString}:
        return key if "\x00" not in key and _is_utf8(key) else None
    if kind is Uuid:
        try:
            return UUID(key)
        except ValueError:
            return None
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
