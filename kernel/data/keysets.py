"""What tells a statement's rows apart in an order, and the statements for those behind a place.

A place is a row's values in the columns of the order, and in the keys of its tables behind them.
A value that JSON holds exactly is in the place as it is, any other one as PostgreSQL writes it:
PostgreSQL reads back what it has written, whatever the type.
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
# Names that a statement of a slice has no parameters of.
PLACE, LIMIT = "kernel_page_{}", "kernel_page_limit"
ORDERS_KEPT = 64  # of a statement


@dataclass(frozen=True)
class Query:
    """A statement, and the numbers of the place's values that it takes."""

    statement: Statement
    numbers: Sequence[int]

    def values(self, place: Place | None, limit: int) -> dict[str, Any]:
        """Its parameters, by their names."""
        own = {PLACE.format(number): place[number] for number in self.numbers} if place else {}
        return own | {LIMIT: limit}


class Keyset:
    """A statement in an order: names of columns, separated by commas, those that descend behind a
    minus. Nulls come last or, descending, first, as PostgreSQL has it.

    Raises:
        TypeError: the statement cannot be paged, or not in this order.
    """

    def __init__(self, statement: Statement, order: str) -> None:
        self._parts = parts_of(statement, order)
        # A cursor is no good for columns of other types, as after a migration.
        self.types = ",".join(part.type_name for part in self._parts)
        self._names = [part.name for part in self._parts]
        hidden = [part for part in self._parts if part.is_hidden]
        self._hidden = len(hidden)
        shown = statement.add_columns(*(cast(p.column, Text).label(p.name) for p in hidden))
        ways = ((desc if p.is_descending else asc)(_plain(p.column)) for p in self._parts)
        self.first = Query(shown.order_by(*ways).limit(bindparam(LIMIT, type_=Integer)), ())
        self._behind: dict[tuple[bool, ...], list[Query]] = {}

    def place(self, record: Any) -> Place:
        """Where the row is."""
        try:
            return list(map(record.__getitem__, self._names))
        except KeyError:
            raise TypeError(DEFERRED) from None

    def key(self, place: Place) -> Place:
        """What of the place no other row has, with nulls for the rest."""
        return [v if part.is_key else None for part, v in zip(self._parts, place, strict=True)]

    def bare(self, records: Sequence[Any]) -> Sequence[Any]:
        """The records with the statement's own columns only, behind which the hidden ones are."""
        if not self._hidden or not records:
            return records
        own = len(records[0]) - self._hidden
        names = [*records[0].keys()][:own]
        return rows_of(names, (record[:own] for record in records))

    def behind(self, place: Place) -> list[Query]:
        """The statements whose rows, one statement after the other, are those behind the place.

        Each of them reads one range of an index on the order's columns; an OR of them would not.
        """
        nulls = tuple(value is None for value in place)
        if nulls not in self._behind:
            self._behind[nulls] = [*self._ranges(nulls)]
        return self._behind[nulls]

    def row(self, key: Place) -> Query:
        """The statement for the row of this key."""
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
        """Where the columns begin that can be compared as a row: of one direction, and without
        nulls, which would be behind a value although they compare with none."""
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
        """The rows with the place's own values in `equal`, which are `nulls` or not, for which the
        condition holds that compares those in `compared`."""
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
    """The column, whose own type may have another idea of order and of what is equal."""
    return type_coerce(column, Text)


_keysets: WeakKeyDictionary[Statement, dict[str, Keyset]] = WeakKeyDictionary()


def keyset_of(statement: Statement, order: str) -> Keyset:
    """The statement in this order, made once for as long as somebody has the statement.

    Raises:
        TypeError: it cannot be paged, or not in this order.
    """
    if not isinstance(statement, Select):
        raise TypeError(NOT_A_SELECT)
    known = _keysets.setdefault(statement, {})
    if order not in known:
        if len(known) == ORDERS_KEPT:
            known.clear()  # whoever lets the client write it must not fill the memory
        known[order] = Keyset(statement, order)
    return known[order]
