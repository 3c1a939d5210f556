"""Statements on plain asyncpg: compiled once to SQL, with each value in its parameter's place."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import asyncpg
from pydantic import BaseModel
from sqlalchemy import JSON, ClauseElement, Column, bindparam, insert, make_url
from sqlmodel import SQLModel

from kernel.driver_errors import is_out_of_range, is_unsendable

REQUIRED = object()
UNSENT = re.compile(r"invalid input for query argument \$(\d+)")
POSTGRES = make_url("postgresql+asyncpg://").get_dialect()()

if TYPE_CHECKING:
    Record = asyncpg.Record


def type_mistake(
    error: BaseException, values: Sequence[Any], names: Sequence[str]
) -> TypeError | None:
    """Which parameter's value is of the wrong type; asyncpg's message has the value in it.

    None for a number or a text that is out of its type's range: that may be the client's.
    """
    place = UNSENT.match(str(error))
    if not place or not is_unsendable(error) or is_out_of_range(error):
        return None
    number = int(place[1]) - 1
    kind = type(values[number]).__name__
    return TypeError(f"parameter {names[number]} cannot be of type {kind}")


@lru_cache(maxsize=1024)
def compile_statement(statement: ClauseElement) -> tuple[str, dict[str, Any]]:
    """The SQL with `$1, $2, …`, and its parameters in that order: the values that the statement
    brings itself, or REQUIRED."""
    compiled: Any = statement.compile(dialect=POSTGRES)
    binds, values = compiled.binds, compiled.params
    names = compiled.positiontup or ()
    return str(compiled), {n: REQUIRED if binds[n].required else values[n] for n in names}


def bind_values(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> list[Any]:
    """The values of a statement's parameters, in their order.

    Raises:
        TypeError: one is missing, or is for no parameter.
    """
    if not values.keys() <= parameters.keys():
        unknown = ", ".join(sorted(values.keys() - parameters.keys()))
        known = ", ".join(parameters) or "none"
        raise TypeError(f"the statement has no parameter {unknown}; it has: {known}")
    arguments = [values.get(name, own) for name, own in parameters.items()]
    if any(argument is REQUIRED for argument in arguments):
        missing = [name for name in parameters if values.get(name, parameters[name]) is REQUIRED]
        raise TypeError(f"no value for the statement's parameter {', '.join(missing)}")
    return arguments


@cache
def compile_insert(
    table: type[SQLModel], model: type[BaseModel], names: tuple[str, ...]
) -> tuple[str, list[Column[Any]]]:
    """The SQL, and the columns of its values in their order."""
    columns = table.__table__.c  # type: ignore[attr-defined]
    given = {name: bindparam(name, type_=columns[name].type) for name in names}
    answer = [columns[name] for name in model.model_fields if name in columns]
    sql, parameters = compile_statement(insert(table).values(given).returning(*answer))
    return sql, [columns[name] for name in parameters]


def own_value(column: Column[Any], values: dict[str, Any]) -> Any:
    """The column's value, or its default, as asyncpg takes it."""
    if column.name not in values:  # it has a default of Python's
        default: Any = column.default
        return default.arg(None) if default.is_callable else default.arg
    value = values[column.name]
    # On a connection of SQLAlchemy's, asyncpg takes JSON as text.
    return json.dumps(value) if isinstance(column.type, JSON) and value is not None else value
