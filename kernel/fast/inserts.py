"""INSERT … RETURNING for one row of a table, which the columns' types and defaults allow or not."""

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
    """The table's columns by the names that its class has for them."""
    return inspect(table).columns  # type: ignore[no-any-return]  # a mapper's, as it is a table


def insert_values(table: type[SQLModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the keys of the columns, with the defaults of fields whose columns have none.

    Raises:
        TypeError: one is for no column.
    """
    columns = columns_of(table)
    if unknown := ", ".join(name for name in values if name not in columns):
        known = ", ".join(columns.keys())
        raise TypeError(f"{table.__name__} has no column {unknown}; it has: {known}")
    fields = table.model_fields
    own = {
        name: fields[name].get_default(call_default_factory=True, validated_data={**values})
        for name in _fields_with_defaults(table)
        if name not in values
    }
    return {columns[name].key: value for name, value in (own | {**values}).items()}


@lru_cache(maxsize=1024)
def _fields_with_defaults(table: type[SQLModel]) -> tuple[str, ...]:
    """The fields whose defaults their columns do not have: SQLModel gives none to `sa_column`."""
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
    """The statement without its values, which gives back what the DTO takes."""
    columns = columns_of(table)
    answer: list[ColumnElement[Any]] = [
        columns[name] if columns[name].name == name else columns[name].label(name)
        for name in model.model_fields
        if name in columns
    ]
    of = inspect(table).local_table
    return insert(of).returning(*(answer or of.primary_key))


def insert_plan(table: type[SQLModel], model: type[BaseModel], keys: frozenset[str]) -> Plan | None:
    """How to run it on asyncpg, or None if SQLAlchemy has to make or process one of the values."""
    return None if "statements" in OFF else _known_plan(table, model, keys)


@lru_cache(maxsize=1024)
def _known_plan(table: type[SQLModel], model: type[BaseModel], keys: frozenset[str]) -> Plan | None:
    return or_none(_plan, table, model, keys)


def _plan(table: type[SQLModel], model: type[BaseModel], keys: frozenset[str]) -> Plan | None:
    columns = inspect(table).local_table.c
    has_default = any(each.default is not None for each in columns if each.key not in keys)
    statement = insert_statement(table, model)
    answer = statement.exported_columns
    if has_default or not all(value_class(column.type) for column in answer):
        return None
    values = {key: bindparam(key, type_=columns[key].type) for key in sorted(keys)}
    return plan_of_compiled(statement.values(values).compile(dialect=POSTGRES))
