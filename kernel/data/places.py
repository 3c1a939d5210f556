"""The columns of an order: those that it names, and the keys that tell the rows apart."""

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
    """A column of an order. In a record, `name` has its value or, if the statement does not have
    it in a form that a cursor can hold, a hidden column with what PostgreSQL writes for it."""

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
        TypeError: a name is no column's, the type of one is not known, a table has no key, or the
            statement is more than columns, FROM and WHERE.
    """
    named = [_named(statement, name) for name in order.split(",")]
    _check(statement)
    sources = [each for it in statement.get_final_froms() for each in sources_of(it)]
    keys = [column for each in sources if not each.is_told for column in key_of(each.table)]
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
    """See that conditions and an order can be added without a change of what the rows are."""
    # Of a row's class, not all columns need be selected.
    one = statement.selected_columns[0]
    plain = select(one).select_from(*statement.get_final_froms())
    if statement.whereclause is not None:
        plain = plain.where(statement.whereclause)
    given = statement.with_only_columns(one, maintain_column_froms=True)
    if str(given.compile(dialect=POSTGRES)) != str(plain.compile(dialect=POSTGRES)):
        raise TypeError(NOT_PLAIN)
    if any(isinstance(it, Over) for c in statement.selected_columns for it in iterate(c)):
        raise TypeError(WINDOWED)


def named_column(statement: Statement, name: str, refusal: str) -> ColumnElement[Any]:
    """The selected column of this name.

    Raises:
        TypeError: there is none, which the refusal tells, or there are two.
    """
    names = [str(column.name) for column in statement.selected_columns]
    if name not in names:
        known = [each for each in names if "%(" not in each]  # others are named by their place
        raise TypeError(f"{refusal}; it selects: {', '.join(known)}")
    if names.count(name) > 1:
        raise TypeError(TWO_COLUMNS.format(name=name))
    return _bare(statement.selected_columns[names.index(name)])


def _named(statement: Statement, part: str) -> tuple[ColumnElement[Any], bool]:
    """The column that a part of an order names, and whether it descends."""
    name = part.removeprefix("-")
    column = named_column(statement, name, NO_COLUMN)
    # Of an expression, SQLAlchemy guesses the type: in one that holds all of them, it is ordered
    # as it is compared.
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
    """Where a record has the value in a form that a cursor can hold."""
    names = [each.name for each in statement.selected_columns]
    for name, each in zip(names, statement.selected_columns, strict=True):
        if names.count(name) == 1 and type(column.type) in PLAIN and column.compare(_bare(each)):
            return str(name)
    return None


def _may_be_null(column: ColumnElement[Any], sources: list[Source]) -> bool:
    if not isinstance(column, Column):
        return True
    table = column.table
    # A subquery's column is what its statement makes of it.
    is_real = isinstance(table.element if isinstance(table, Alias) else table, Table)
    is_optional = any(each.is_optional for each in sources if each.table == table)
    return not is_real or is_optional or bool(column.nullable)
