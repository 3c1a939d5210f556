"""Statements on plain asyncpg, where that is known to be equal to SQLAlchemy's own execution.

Such a statement is compiled once to SQL, with each value in its parameter's place. It has to be a
query whose parameters and columns are all of plain types, and it is when it is met for the second
time: what a request builds for itself is SQLAlchemy's, whose cache goes by the statement's form
(from 195 µs for such a one to 165, and nothing is kept of it).
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    Column,
    CompoundSelect,
    Select,
    Table,
    TextClause,
    UpdateBase,
)
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.types import TypeEngine
from sqlmodel import UTCDateTime

from kernel.driver_errors import is_out_of_range, is_unsendable
from kernel.fast.parameters import bind_values, parameters_of
from kernel.fast.plain_types import (
    CONVERTED,
    POSTGRES,
    argument_class,
    element_class,
    value_class,
)
from kernel.fast.records import Record, rows_of
from kernel.fast.switches import OFF

FILTERED = "/*filter*/"  # in front of a comparison with what a client filters by
SEARCH = re.compile(rf"\s(?:I?LIKE|SIMILAR\s+TO|!?~\*?|@@|{re.escape(FILTERED)})\s", re.IGNORECASE)
UNSENT = re.compile(r"invalid input for query argument \$(\d+)")
zone_of = attrgetter("tzinfo")
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Plan:
    """SQL with `$1, $2, …`; its parameters in that order, with the values that the statement brings
    itself, or REQUIRED, and the class that a value is to have; the names of its columns; which
    parameters and which columns are moments in UTC; the classes of the elements of arrays."""

    sql: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    classes: tuple[type, ...] = ()
    names: tuple[str, ...] = ()
    utc_parameters: tuple[int, ...] = ()
    utc_columns: tuple[int, ...] = ()
    arrays: tuple[tuple[int, type], ...] = ()
    is_named: bool | None = None  # so by the database, too

    def arguments(self, values: Mapping[str, Any]) -> list[Any] | None:
        """What to send, or None if SQLAlchemy has to process one of the values.

        Raises:
            TypeError: one is missing, or is for no parameter.
        """
        arguments = bind_values(self.parameters, values)
        for of, argument in zip(self.classes, arguments):  # noqa: B905  # of one length
            if type(argument) is not of and argument is not None:
                return None
        for place in self.utc_parameters:
            if (moment := arguments[place]) is not None and moment.tzinfo is not UTC:
                return None
        for place, of in self.arrays:
            if any(type(element) is not of for element in arguments[place] or ()):
                return None
        return arguments

    def results(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records, with SQLAlchemy's names, and a zone at an infinite moment, which asyncpg
        gives without one."""
        if not records:
            return records
        if self.is_named is None:
            self.is_named = tuple(records[0].keys()) == self.names
        if self.is_named:
            for place in self.utc_columns:
                if None in map(zone_of, filter(None, map(itemgetter(place), records))):
                    break
            else:
                return records
        rows = [[*record] for record in records]
        for row in rows:
            for place in self.utc_columns:
                row[place] = row[place] and row[place].replace(tzinfo=UTC)
        return rows_of(self.names, rows)


@lru_cache(maxsize=4096)
def is_search(sql: str) -> bool:
    """Whether the best plan depends on the pattern that is looked for.

    The server plans a prepared statement anew for the first five times. Then it may keep one plan
    for all values, if it takes that for no dearer (PostgreSQL manual, PREPARE): a few dear searches
    turned everybody's, from 1 ms to 200. So a search is prepared for each time.
    """
    return SEARCH.search(sql) is not None


def bind(plan: Plan | None, values: Mapping[str, Any]) -> tuple[Plan, list[Any]] | None:
    """The plan and what to send, or None if SQLAlchemy has to execute the statement."""
    if plan is None or (arguments := plan.arguments(values)) is None:
        return None
    return plan, arguments


NEW, MET = Plan(), Plan()
# By the statement, and no longer than it lives; None is one that SQLAlchemy has to execute.
_plans: WeakKeyDictionary[ClauseElement, Plan | None] = WeakKeyDictionary()


def plan_of(statement: ClauseElement) -> Plan | None:
    """How to run the statement on asyncpg, or None if SQLAlchemy has to execute it."""
    plan = None if "statements" in OFF else _plans.get(statement, NEW)
    if plan is NEW:
        plan, _plans[statement] = None, MET
    elif plan is MET:
        plan = _plans[statement] = or_none(_plan, statement)
    return plan


def or_none(prepare: Callable[..., Plan | None], *args: Any) -> Plan | None:
    """The plan; what goes wrong while it is prepared means that SQLAlchemy has to execute it."""
    try:
        return prepare(*args)
    except Exception:
        logger.warning("a statement has no short way", exc_info=True)
        return None


def _plan(statement: ClauseElement) -> Plan | None:
    if not isinstance(statement, Select | CompoundSelect) or statement.get_execution_options():
        return None
    if not all(map(_is_known, iterate(statement))):
        return None
    compiled: Any = statement.compile(dialect=POSTGRES)
    columns = compiled._result_columns
    is_select = isinstance(statement, Select)
    is_plain = all(_is_plain(kind, parts, is_select) for *_, parts, kind in columns)
    return plan_of_compiled(compiled) if columns and is_plain else None


def _is_known(part: object) -> bool:
    if isinstance(part, BindParameter):  # of two with one name, the compiler tells only one
        return argument_class(part.type) is not None
    # A CTE may write, with defaults of Python's; a piece of text may be any number of columns.
    return not isinstance(part, UpdateBase | TextClause)


def _is_plain(kind: TypeEngine[Any], parts: Iterable[object], is_select: bool) -> bool:
    is_column = is_select and any(
        isinstance(part, Column) and isinstance(part.table, Table) for part in parts
    )
    return value_class(kind) is not None and (is_column or type(kind) not in CONVERTED)


def plan_of_compiled(compiled: Any) -> Plan | None:
    """The plan of a statement whose columns are of plain types, if its parameters are."""
    binds = compiled.binds.values()
    late = (bind.expanding or bind.literal_execute or bind.callable for bind in binds)
    bound = [compiled.binds[name] for name in compiled.positiontup or ()]
    classes = [argument_class(bind.type) for bind in bound]
    elements = [element_class(bind.type) for bind in bound]
    if any(late) or None in classes:
        return None
    return Plan(
        str(compiled),
        parameters_of(compiled),
        tuple(filter(None, classes)),
        tuple(name for name, *_ in compiled._result_columns),
        _in_utc(bind.type for bind in bound),
        _in_utc(kind for *_, kind in compiled._result_columns),
        tuple((place, of) for place, of in enumerate(elements) if of),
    )


def _in_utc(kinds: Iterable[object]) -> tuple[int, ...]:
    return tuple(place for place, kind in enumerate(kinds) if type(kind) is UTCDateTime)


def type_mistake(error: BaseException, values: Mapping[str, Any]) -> TypeError | None:
    """Which parameter's value is of the wrong type; asyncpg's message has the value in it. `values`
    are those of all parameters in their order, if they are known.

    None for a number or a text that is out of its type's range: that may be the client's.
    """
    place = UNSENT.match(str(error))
    if not place or not is_unsendable(error) or is_out_of_range(error):
        return None
    if not values:
        return TypeError(f"${place[1]} cannot be of the type of its value")
    name, value = [*values.items()][int(place[1]) - 1]
    return TypeError(f"parameter {name} cannot be of type {type(value).__name__}")
