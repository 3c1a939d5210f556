"""INSERT … RETURNING for one row, on asyncpg if the columns' types and defaults allow it."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Column, ColumnElement, Insert, bindparam, insert, inspect
from sqlmodel import SQLModel

from kernel.fast.plain_types import POSTGRES, value_class
from kernel.fast.statements import Plan, or_none, plan_of_compiled
from kernel.fast.switches import OFF


def columns_of(table: type[SQLModel]) -> Mapping[str, Column[Any]]:
    """The table's columns by the names of its class's attributes."""
    return inspect(table).columns  # type: ignore[no-any-return]  # of a table, it is a mapper


def insert_values(table: type[SQLModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by column key, with the defaults that fields have and their columns do not.

    Raises:
        TypeError: the table has no such column.
    """
    columns = columns_of(table)
    if unknown := ", ".join(name for name in values if name not in columns):
        names = ", ".join(columns.keys())
        raise TypeError(f"{table.__name__} has no column {unknown}; it has: {names}")
    fields = table.model_fields
    defaults = {
        name: fields[name].get_default(call_default_factory=True, validated_data={**values})
        for name in _fields_with_defaults(table)
        if name not in values
    }
    return {columns[name].key: value for name, value in (defaults | {**values}).items()}


@lru_cache(maxsize=1024)
def _fields_with_defaults(table: type[SQLModel]) -> tuple[str, ...]:
    """The fields with a default that their column has not: SQLModel gives `sa_column` none."""
    return tuple(
        name
        for name, column in columns_of(table).items()
        if column.default is None
        and column.server_default is None
        and (field := table.model_fields.get(name))
        and not field.is_required()
        and (field.default_factory or field.default is not None)
    )


def insert_statement(table: type[SQLModel], model: type[BaseModel]) -> Insert:
    """The statement without its values, returning the columns of the DTO's fields."""
    columns = columns_of(table)
    returned: list[ColumnElement[Any]] = [
        columns[name] if columns[name].name == name else columns[name].label(name)
        for name in model.model_fields
        if name in columns
    ]
    target = inspect(table).local_table
    return insert(target).returning(*(returned or target.primary_key))


def insert_plan(table: type[SQLModel], model: type[BaseModel], keys: frozenset[str]) -> Plan | None:
    """How to run it on asyncpg, or None if SQLAlchemy has to make or process one of the values."""
    return None if "statements" in OFF else _cached_plan(table, model, keys)


@lru_cache(maxsize=1024)
def _cached_plan(
    table: type[SQLModel], model: type[BaseModel], keys: frozenset[str]
) -> Plan | None:
    return or_none(_plan, table, model, keys)


def _plan(table: type[SQLModel], model: type[BaseModel], keys: frozenset[str]) -> Plan | None:
    columns = inspect(table).local_table.c
    has_default = any(column.default is not None for column in columns if column.key not in keys)
    statement = insert_statement(table, model)
    returned = statement.exported_columns
    if has_default or not all(value_class(column.type) for column in returned):
        return None
    values = {key: bindparam(key, type_=columns[key].type) for key in sorted(keys)}
    return plan_of_compiled(statement.values(values).compile(dialect=POSTGRES))
