"""The tables that a statement's rows come from, and the keys that identify a row."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BinaryExpression,
    BooleanClauseList,
    Column,
    ColumnElement,
    FromClause,
    Join,
)

from kernel.data.refusals import NO_KEY


@dataclass(frozen=True)
class Source:
    """A table in FROM. `is_optional`: an outer join may leave it out of a row. `is_determined`: the
    row on the left of a join determines its row, so its key adds nothing."""

    table: FromClause
    is_optional: bool
    is_determined: bool


def sources_of(
    clause: FromClause, *, is_optional: bool = False, is_determined: bool = False
) -> Iterator[Source]:
    """The tables of a FROM clause, with those that it joins."""
    if not isinstance(clause, Join):
        yield Source(clause, is_optional, is_determined)
        return
    yield from sources_of(clause.left, is_optional=is_optional or clause.full)
    is_optional |= clause.isouter or clause.full
    is_determined = _determines_one_row(clause)
    yield from sources_of(clause.right, is_optional=is_optional, is_determined=is_determined)


def _determines_one_row(join: Join) -> bool:
    """Whether a row on the left joins at most one row on the right: ON compares its whole key."""
    right = join.right
    compared = [
        column
        for term in _terms(join.onclause)
        if isinstance(term, BinaryExpression) and term.operator is operator.eq
        for column, other in ((term.left, term.right), (term.right, term.left))
        if isinstance(column, Column) and isinstance(other, Column) and other.table != right
    ]
    key = [] if join.full or isinstance(right, Join) else [*right.primary_key]
    return bool(key) and all(any(other.compare(column) for other in compared) for column in key)


def _terms(condition: ColumnElement[Any] | None) -> Iterator[ColumnElement[Any]]:
    if isinstance(condition, BooleanClauseList) and condition.operator is operator.and_:
        for clause in condition.clauses:
            yield from _terms(clause)
    elif condition is not None:
        yield condition


def key_of(table: FromClause) -> list[Column[Any]]:
    """The columns of the primary key; of a subquery, the selected ones of its table's.

    Raises:
        TypeError: there is no primary key.
    """
    key: list[Any] = [*(table.primary_key or ())]
    if not key:
        raise TypeError(NO_KEY.format(table=getattr(table, "name", table)))
    return key
