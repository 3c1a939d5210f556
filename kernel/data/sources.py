"""Where a statement's rows come from, and what tells them apart."""

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
    """A table in FROM: whether a row may be without it, and whether the row in front of it in a
    join tells which of its rows it is."""

    table: FromClause
    is_optional: bool
    is_told: bool


def sources_of(
    it: FromClause, *, is_optional: bool = False, is_told: bool = False
) -> Iterator[Source]:
    """The tables of a FROM, with those that it joins."""
    if not isinstance(it, Join):
        yield Source(it, is_optional, is_told)
        return
    yield from sources_of(it.left, is_optional=is_optional or it.full)
    is_optional |= it.isouter or it.full
    yield from sources_of(it.right, is_optional=is_optional, is_told=_tells_one_row(it))


def _tells_one_row(join: Join) -> bool:
    """Whether a row on the left meets one row on the right at most, whose key ON names."""
    right = join.right
    told = [
        column
        for term in _terms(join.onclause)
        if isinstance(term, BinaryExpression) and term.operator is operator.eq
        for column, other in ((term.left, term.right), (term.right, term.left))
        if isinstance(column, Column) and isinstance(other, Column) and other.table != right
    ]
    key = [] if join.full or isinstance(right, Join) else [*right.primary_key]
    return bool(key) and all(any(each.compare(column) for each in told) for column in key)


def _terms(condition: ColumnElement[Any] | None) -> Iterator[ColumnElement[Any]]:
    if isinstance(condition, BooleanClauseList) and condition.operator is operator.and_:
        for each in condition.clauses:
            yield from _terms(each)
    elif condition is not None:
        yield condition


def key_of(table: FromClause) -> list[Column[Any]]:
    """The columns of its primary key; a subquery's are those that it selects of one.

    Raises:
        TypeError: there is none.
    """
    key: list[Any] = [*(table.primary_key or ())]
    if not key:
        raise TypeError(NO_KEY.format(table=getattr(table, "name", table)))
    return key
