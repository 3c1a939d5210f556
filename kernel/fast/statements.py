"""Runs statements on plain asyncpg where the result is known to equal SQLAlchemy's execution.

Such a statement is compiled to SQL once, at its second use. It has to be a query whose parameters
and columns are all of plain types. A statement that a request builds for itself is used once only,
so SQLAlchemy executes it, whose cache goes by the statement's structure (165 µs each instead of
195, and nothing is kept of it).
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
    """A statement as SQL with `$1, $2, …`, and what is known of its parameters and columns.

    `parameters` are in the order of the SQL, each with the statement's own value for it, or
    REQUIRED; `classes` are the classes that their values have to have. `utc_parameters` and
    `utc_columns` are the indexes of times in UTC; `arrays` are the indexes of array parameters,
    each with the class of its elements.
    """

    sql: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    classes: tuple[type, ...] = ()
    names: tuple[str, ...] = ()
    utc_parameters: tuple[int, ...] = ()
    utc_columns: tuple[int, ...] = ()
    arrays: tuple[tuple[int, type], ...] = ()
    is_named: bool | None = None  # whether the records have these names, too

    def arguments(self, values: Mapping[str, Any]) -> list[Any] | None:
        """The values to send, or None if SQLAlchemy has to process one of them.

        Raises:
            TypeError: one is missing, or the statement has no such parameter.
        """
        arguments = bind_values(self.parameters, values)
        for cls, argument in zip(self.classes, arguments):  # noqa: B905  # of one length
            if type(argument) is not cls and argument is not None:
                return None
        for place in self.utc_parameters:
            if (moment := arguments[place]) is not None and moment.tzinfo is not UTC:
                return None
        for place, cls in self.arrays:
            if any(type(element) is not cls for element in arguments[place] or ()):
                return None
        return arguments

    def results(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records with SQLAlchemy's column names. Infinite times, which asyncpg returns naive,
        get the time zone UTC."""
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
    """Whether the best query plan depends on the pattern that is searched for.

    PostgreSQL plans a prepared statement anew for its first five executions. Then it may keep one
    plan for all values, if it estimates that to cost no more (manual, PREPARE): after a few
    expensive searches, every search took 200 ms instead of 1. So each search is prepared anew.
    """
    return SEARCH.search(sql) is not None


def bind(plan: Plan | None, values: Mapping[str, Any]) -> tuple[Plan, list[Any]] | None:
    """The plan and the values to send, or None if SQLAlchemy has to execute the statement."""
    if plan is None or (arguments := plan.arguments(values)) is None:
        return None
    return plan, arguments


UNUSED, USED_ONCE = Plan(), Plan()
# By statement, as long as that lives; None: SQLAlchemy has to execute it.
_plans: WeakKeyDictionary[ClauseElement, Plan | None] = WeakKeyDictionary()


def plan_of(statement: ClauseElement) -> Plan | None:
    """How to run the statement on asyncpg, or None if SQLAlchemy has to execute it."""
    plan = None if "statements" in OFF else _plans.get(statement, UNUSED)
    if plan is UNUSED:
        plan, _plans[statement] = None, USED_ONCE
    elif plan is USED_ONCE:
        plan = _plans[statement] = or_none(_plan, statement)
    return plan


def or_none(prepare: Callable[..., Plan | None], *args: Any) -> Plan | None:
    """The plan, or None if its preparation fails: SQLAlchemy then executes the statement."""
    try:
        return prepare(*args)
    except Exception:
        logger.warning("no short way for a statement: SQLAlchemy executes it", exc_info=True)
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
    if isinstance(part, BindParameter):  # the compiler keeps only one of two with the same name
        return argument_class(part.type) is not None
    # A CTE may write, with Python's defaults; a text() may stand for any number of columns.
    return not isinstance(part, UpdateBase | TextClause)


def _is_plain(kind: TypeEngine[Any], parts: Iterable[object], is_select: bool) -> bool:
    is_column = is_select and any(
        isinstance(part, Column) and isinstance(part.table, Table) for part in parts
    )
    return value_class(kind) is not None and (is_column or type(kind) not in CONVERTED)


def plan_of_compiled(compiled: Any) -> Plan | None:
    """The plan of a statement with columns of plain types; None if a parameter is of another."""
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
        tuple((place, cls) for place, cls in enumerate(elements) if cls),
    )


def _in_utc(kinds: Iterable[object]) -> tuple[int, ...]:
    return tuple(place for place, kind in enumerate(kinds) if type(kind) is UTCDateTime)


def type_mistake(error: BaseException, values: Mapping[str, Any]) -> TypeError | None:
    """The error to raise for a value of the wrong type: it names the parameter and not the value,
    which asyncpg's message has. `values` are those of all parameters in order, if known.

    None for a number or text out of its type's range, which may be the client's mistake.
    """
    place = UNSENT.match(str(error))
    if not place or not is_unsendable(error) or is_out_of_range(error):
        return None
    if not values:
        return TypeError(f"${place[1]} has a value of the wrong type")
    name, value = [*values.items()][int(place[1]) - 1]
    return TypeError(f"parameter {name} cannot be of type {type(value).__name__}")
