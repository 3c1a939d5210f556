"""Keysets: the columns that order a statement's rows uniquely, and the queries for rows after one.

A place is a row's values in the columns of the order, followed by the keys of its tables. A value
that JSON holds exactly is in the place unchanged, any other one as PostgreSQL writes it as text:
PostgreSQL reads its own text back exactly, whatever the type.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    Text,
    and_,
    asc,
    bindparam,
    cast,
    desc,
    tuple_,
    type_coerce,
)

from kernel.data.places import parts_of
from kernel.data.refusals import DEFERRED, NOT_A_SELECT
from kernel.fast.records import rows_of

Statement = Select[*tuple[Any, ...]]
Place = list[Any]
# Names of parameters; a slice's statement must not use them.
PLACE, LIMIT = "kernel_page_{}", "kernel_page_limit"
ORDERS_KEPT = 64  # orders, for each statement


@dataclass(frozen=True)
class Query:
    """A statement, and the positions of the place's values that are its parameters."""

    statement: Statement
    numbers: Sequence[int]

    def values(self, place: Place | None, limit: int) -> dict[str, Any]:
        """The values of its parameters, by name."""
        if not place:
            return {LIMIT: limit}
        return {PLACE.format(n): place[n] for n in self.numbers} | {LIMIT: limit}


class Keyset:
    """A statement in an order: names of selected columns, separated by commas, with a minus before
    those that descend. Nulls come last or, descending, first, as in PostgreSQL.

    Raises:
        TypeError: the statement cannot be paged, or not in this order.
    """

    def __init__(self, statement: Statement, order: str) -> None:
        self._parts = parts_of(statement, order)
        # Cursors are signed with these: one from before a migration of the types must not be valid.
        self.types = ",".join(part.type_name for part in self._parts)
        self._names = [part.name for part in self._parts]
        hidden = [part for part in self._parts if part.is_hidden]
        self._hidden = len(hidden)
        shown = statement.add_columns(*(cast(p.column, Text).label(p.name) for p in hidden))
        ways = ((desc if p.is_descending else asc)(_plain(p.column)) for p in self._parts)
        self.first = Query(shown.order_by(*ways).limit(bindparam(LIMIT, type_=Integer)), ())
        self._behind: dict[tuple[bool, ...], list[Query]] = {}

    def place(self, record: Any) -> Place:
        """The place of a row of this keyset's statements."""
        try:
            return list(map(record.__getitem__, self._names))
        except KeyError:
            raise TypeError(DEFERRED) from None

    def key(self, place: Place) -> Place:
        """The place with only the values of keys, which no other row has, and None for the rest."""
        return [v if part.is_key else None for part, v in zip(self._parts, place, strict=True)]

    def bare(self, records: Sequence[Any]) -> Sequence[Any]:
        """The records without the hidden columns, which come last."""
        if not self._hidden or not records:
            return records
        count = len(records[0]) - self._hidden
        names = [*records[0].keys()][:count]
        return rows_of(names, (record[:count] for record in records))

    def behind(self, place: Place) -> list[Query]:
        """The queries whose rows, concatenated in this order, are those after the place.

        Each reads one range of an index on the order's columns; one query with OR would not.
        """
        nulls = tuple(value is None for value in place)
        if nulls not in self._behind:
            self._behind[nulls] = [*self._ranges(nulls)]
        return self._behind[nulls]

    def row(self, key: Place) -> Query:
        """The query for the row of this key."""
        numbers = [number for number, part in enumerate(self._parts) if part.is_key]
        return self._query(numbers, tuple(value is None for value in key))

    def _ranges(self, nulls: Sequence[bool]) -> Iterator[Query]:
        end = len(self._parts)
        while end:
            start = self._start(end, nulls)
            part, equal = self._parts[start], range(start)
            if not nulls[start]:
                yield self._query(equal, nulls, self._beyond(start, end), range(start, end))
            if nulls[start] and part.is_descending:
                yield self._query(equal, nulls, _plain(part.column).is_not(None))
            if not nulls[start] and part.is_nullable and not part.is_descending:
                yield self._query(equal, nulls, _plain(part.column).is_(None))
            end = start

    def _start(self, end: int, nulls: Sequence[bool]) -> int:
        """The first of the columns before `end` that one row comparison can cover: they have one
        direction and no nulls, which sort after a value but do not compare as greater."""
        start = end - 1
        while start and not nulls[start] and not nulls[start - 1]:
            part, before = self._parts[start], self._parts[start - 1]
            is_alike = part.is_descending == before.is_descending
            if not is_alike or (part.is_nullable and not part.is_descending):
                break
            start -= 1
        return start

    def _beyond(self, start: int, end: int) -> ColumnElement[bool]:
        row = tuple_(*(part.column for part in self._parts[start:end]))
        place = tuple_(*map(self._parameter, range(start, end)))
        return row < place if self._parts[start].is_descending else row > place

    def _query(
        self,
        equal: Sequence[int],
        nulls: Sequence[bool],
        condition: ColumnElement[bool] | None = None,
        compared: Sequence[int] = (),
    ) -> Query:
        """The query for rows that equal the place in the columns `equal`, of which `nulls` tells
        which are null, and match `condition`, which compares the columns `compared`."""
        numbers = [number for number in equal if not nulls[number]]
        conditions = [] if condition is None else [condition]
        for number in equal:
            column = _plain(self._parts[number].column)
            value = column.is_(None) if nulls[number] else column == self._parameter(number)
            conditions.append(value)
        return Query(self.first.statement.where(and_(*conditions)), [*numbers, *compared])

    def _parameter(self, number: int) -> ColumnElement[Any]:
        part, name = self._parts[number], PLACE.format(number)
        if part.is_hidden:
            return cast(bindparam(name, type_=Text()), part.column.type)
        return bindparam(name, type_=part.column.type)


def _plain(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column without its Python type, whose operators may be overridden."""
    return type_coerce(column, Text)


_keysets: WeakKeyDictionary[Statement, dict[str, Keyset]] = WeakKeyDictionary()


def keyset_of(statement: Statement, order: str) -> Keyset:
    """The keyset of the statement in this order, cached for as long as the statement lives.

    Raises:
        TypeError: it cannot be paged, or not in this order.
    """
    if not isinstance(statement, Select):
        raise TypeError(NOT_A_SELECT)
    keysets = _keysets.setdefault(statement, {})
    if order not in keysets:
        if len(keysets) == ORDERS_KEPT:
            keysets.clear()  # where clients choose the order, they must not fill the memory
        keysets[order] = Keyset(statement, order)
    return keysets[order]
