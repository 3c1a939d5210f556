"""The columns of an order: those that it names, then the keys that make it unique."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Alias,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    Float,
    Integer,
    Label,
    Numeric,
    Over,
    Select,
    SmallInteger,
    String,
    Table,
    Text,
    cast,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import CompileError
from sqlalchemy.sql.visitors import iterate
from sqlmodel import AutoString

from kernel.data.refusals import NO_COLUMN, NO_TYPE, NOT_PLAIN, TWO_COLUMNS, WINDOWED
from kernel.data.sources import Source, key_of, sources_of

Statement = Select[*tuple[Any, ...]]
POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]
TEXTS = {String, Text, AutoString}
# A value of these is the same in a record, in JSON and as a parameter.
PLAIN = {Integer, BigInteger, SmallInteger, Boolean, *TEXTS}


@dataclass(frozen=True)
class Part:
    """A column of an order. `name` is the column of a record that has its value. It is a hidden
    one, with the value as PostgreSQL's text, if the statement does not select the column or JSON
    cannot hold its type."""

    column: ColumnElement[Any]
    name: str
    type_name: str
    is_hidden: bool
    is_descending: bool
    is_nullable: bool
    is_key: bool


def parts_of(statement: Statement, order: str) -> list[Part]:
    """The columns of the order, the named ones first.

    Raises:
        TypeError: a name is no selected column, a column's type is unknown, a table has no key, or
            the statement has more than columns, FROM and WHERE.
    """
    named = [_named(statement, name) for name in order.split(",")]
    _check(statement)
    sources = [s for clause in statement.get_final_froms() for s in sources_of(clause)]
    keys = [column for s in sources if not s.is_determined for column in key_of(s.table)]
    last = named[-1][1]
    columns = [*named, *((key, last) for key in keys)]
    parts: list[Part] = []
    for column, is_descending in columns:
        if not any(part.column.compare(column) for part in parts):
            name = _plain_name(statement, column)
            parts.append(
                Part(
                    column=column,
                    name=name or f"page_{len(parts)}",
                    type_name=_type_name(column),
                    is_hidden=name is None,
                    is_descending=is_descending,
                    is_nullable=_may_be_null(column, sources),
                    is_key=any(key.compare(column) for key in keys),
                )
            )
    return parts


def _check(statement: Statement) -> None:
    """Raise TypeError unless conditions and an order can be added without changing the rows."""
    # Compared with one column only: an entity's options may select fewer than all.
    one = statement.selected_columns[0]
    plain = select(one).select_from(*statement.get_final_froms())
    if statement.whereclause is not None:
        plain = plain.where(statement.whereclause)
    reduced = statement.with_only_columns(one, maintain_column_froms=True)
    if str(reduced.compile(dialect=POSTGRES)) != str(plain.compile(dialect=POSTGRES)):
        raise TypeError(NOT_PLAIN)
    if any(isinstance(part, Over) for c in statement.selected_columns for part in iterate(c)):
        raise TypeError(WINDOWED)


def named_column(statement: Statement, name: str, refusal: str) -> ColumnElement[Any]:
    """The selected column of this name.

    Raises:
        TypeError: there is none (its text begins with `refusal`), or there are two.
    """
    names = [str(column.name) for column in statement.selected_columns]
    if name not in names:
        labels = [label for label in names if "%(" not in label]  # others are SQLAlchemy's own
        raise TypeError(f"{refusal}; it selects: {', '.join(labels)}")
    if names.count(name) > 1:
        raise TypeError(TWO_COLUMNS.format(name=name))
    return _bare(statement.selected_columns[names.index(name)])


def _named(statement: Statement, part: str) -> tuple[ColumnElement[Any], bool]:
    """The column that a part of an order names, and whether it descends."""
    name = part.removeprefix("-")
    column = named_column(statement, name, NO_COLUMN)
    # SQLAlchemy guesses an expression's type: cast to the widest one of its kind, it is compared
    # with a cursor's value in the same type as it is ordered.
    _type_name(column)
    ordered = column if isinstance(column, Column) else cast(column, _wide(column.type))
    return ordered, part != name


def _bare(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return column.element if isinstance(column, Label) else column


def _wide(kind: Any) -> Any:
    if type(kind) in TEXTS:
        return Text()
    if isinstance(kind, Float):
        return Double()
    return Numeric() if isinstance(kind, Integer | Numeric) else kind


def _type_name(column: ColumnElement[Any]) -> str:
    try:
        return column.type.compile(POSTGRES)
    except CompileError:
        raise TypeError(NO_TYPE.format(column=column)) from None


def _plain_name(statement: Statement, column: ColumnElement[Any]) -> str | None:
    """The column's name in a record, if its type is PLAIN and it is selected under one name."""
    names = [selected.name for selected in statement.selected_columns]
    for name, selected in zip(names, statement.selected_columns, strict=True):
        is_same = type(column.type) in PLAIN and column.compare(_bare(selected))
        if names.count(name) == 1 and is_same:
            return str(name)
    return None


def _may_be_null(column: ColumnElement[Any], sources: list[Source]) -> bool:
    if not isinstance(column, Column):
        return True
    table = column.table
    # A subquery's column may be null, whatever the table's column says.
    is_real = isinstance(table.element if isinstance(table, Alias) else table, Table)
    is_optional = any(source.is_optional for source in sources if source.table == table)
    return not is_real or is_optional or bool(column.nullable)
