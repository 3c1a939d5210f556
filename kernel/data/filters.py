"""Filters of a list: one typed model, whose field names give column and comparison.

The statement for each set of fields is built once; the values are its parameters.
"""

from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from operator import ge, gt, le, lt
from typing import Any, TypeVar, get_args, get_origin
from weakref import WeakKeyDictionary

from pydantic import ValidationInfo, field_validator, model_validator
from sqlalchemy import ARRAY, BigInteger, ColumnElement, Numeric, Select, Text, any_, bindparam
from sqlalchemy.types import TypeEngine

from kernel.context import query_names
from kernel.data.models import Input
from kernel.data.places import named_column
from kernel.data.refusals import NO_FILTER
from kernel.fast.inputs import COLLECTIONS, plain_int, request_names, without_name
from kernel.fast.plain_types import value_class

Statement = Select[*tuple[Any, ...]]
S = TypeVar("S", bound=Statement)
# The name of a parameter; a slice's statement must not use it.
PARAMETER = "kernel_filter_{}"
NULL, COMPARISONS = "_is_null", {"_min": ge, "_max": le, "_after": gt, "_before": lt}
OTHERS = {"q", "order"}
SETS_KEPT = 64  # sets of fields, for each statement
# A type that holds every value of the column's and more: a cast to VARCHAR(n) would cut a longer
# text to n characters, and match rows that it should not.
WIDE: dict[type | None, TypeEngine[Any]] = {int: BigInteger(), str: Text(), Decimal: Numeric()}
# The model, and the fields that are set; of an `_is_null` field, its value, which is no parameter.
Key = tuple[type, tuple[tuple[str, bool], ...]]
_filtered: WeakKeyDictionary[Statement, dict[Key, Statement]] = WeakKeyDictionary()


class Filter(Input):
    """What a list is filtered by, as one model of an operation's query parameters:
    `filters: Annotated[InvoiceFilter, Query()]`.

    A field is called like a column that the list's statement selects. Behind the name, `_min` and
    `_max` are bounds that belong to the range, `_after` and `_before` are bounds that do not, and
    `_is_null` asks whether there is no value. A field of a list (`status=open&status=paid`) is for
    the rows with one of its values. What is None is not asked for. Fields called `q` and `order`
    are no conditions: the handler reads what to search for, and the order of the pages.

    An operation with such a parameter refuses query parameters that it does not know.
    """

    @model_validator(mode="before")
    @classmethod
    def _leaves_out_others(cls, data: object) -> object:
        """Without the operation's other query parameters, which FastAPI passes to each model."""
        others = query_names.get() - request_names(cls)
        if not isinstance(data, dict) or others.isdisjoint(data):
            return data
        return {name: value for name, value in data.items() if name not in others}

    @field_validator("*", mode="before")
    @classmethod
    def _reads_numbers(cls, value: object, info: ValidationInfo) -> object:
        """Whole numbers out of a query string's text, by the rule for ids in paths."""
        if info.field_name not in _whole_numbers(cls):
            return value
        return [*map(_whole, value)] if isinstance(value, list) else _whole(value)

    def apply(self, statement: S) -> S:
        """The statement with the filter's conditions, whose parameters `values` gives.

        Raises:
            TypeError: a field is named like no column of the statement, or like two.
        """
        cached: dict[Key, Any] = _filtered.setdefault(statement, {})
        fields = tuple((name, _is_null(name) and value) for name, value in self._set_fields())
        key = (type(self), fields)
        if key not in cached:
            if len(cached) == SETS_KEPT:
                cached.clear()  # clients choose the sets, and must not fill the memory
            conditions = [_condition(statement, type(self), *field) for field in fields]
            cached[key] = statement.where(*conditions) if conditions else statement
        filtered: S = cached[key]
        return filtered

    def values(self) -> dict[str, Any]:
        """The values of the parameters that `apply` has added, by name."""
        fields = self._set_fields()
        return {PARAMETER.format(name): value for name, value in fields if not _is_null(name)}

    def _set_fields(self) -> Iterator[tuple[str, Any]]:
        for name, sent in self:
            value = [*sent] if isinstance(sent, set | frozenset | tuple | deque) else sent
            # A client cannot send an empty list: it is the default of a field that was not sent.
            if value is not None and value != [] and name not in OTHERS:
                yield name, value


def _is_null(name: str) -> bool:
    return name.endswith(NULL)


def _condition(
    statement: Statement, model: type[Filter], name: str, is_null: bool
) -> ColumnElement[bool]:
    if _is_null(name):
        if not isinstance(is_null, bool):
            raise TypeError(f"{model.__name__}.{name} is not a bool")
        column = _column(statement, model, name.removesuffix(NULL))
        return column.is_(None) if is_null else column.is_not(None)
    suffix = next((end for end in COMPARISONS if name.endswith(end)), "")
    if not suffix or name in statement.selected_columns:
        return _is_equal(_column(statement, model, name), model, name)
    column = _column(statement, model, name.removesuffix(suffix))
    # A page's LIMIT is a parameter, too, so the server plans for the values each time: its generic
    # plan would assume a tenth of the rows (PostgreSQL 18: 0 generic plans of 200).
    compared: ColumnElement[bool] = COMPARISONS[suffix](
        column, bindparam(PARAMETER.format(name), type_=_wide(column))
    )
    return compared


def _is_equal(column: ColumnElement[Any], model: type[Filter], name: str) -> ColumnElement[bool]:
    parameter, kind = PARAMETER.format(name), _wide(column)
    if not _is_list(model.model_fields[name].annotation):
        return column == bindparam(parameter, type_=kind)
    if value_class(kind) is None:
        return column.in_(bindparam(parameter, expanding=True))
    return column == any_(bindparam(parameter, type_=ARRAY(kind)))


def _wide(column: ColumnElement[Any]) -> TypeEngine[Any]:
    return WIDE.get(value_class(column.type), column.type)


def _column(statement: Statement, model: type[Filter], name: str) -> ColumnElement[Any]:
    """
    Raises:
        TypeError: the statement selects no column of this name, or two.
    """
    return named_column(statement, name, NO_FILTER.format(model=model.__name__, name=name))


def _is_list(annotation: Any) -> bool:
    kind = without_name(annotation)
    return any(get_origin(without_name(part)) in COLLECTIONS for part in (kind, *get_args(kind)))


def _whole(value: object) -> object:
    return int(plain_int(value)) if isinstance(value, str) else value


@cache
def _whole_numbers(model: type[Filter]) -> frozenset[str]:
    fields = model.model_fields.items()
    return frozenset(name for name, field in fields if _is_whole(field.annotation))


def _is_whole(annotation: Any) -> bool:
    kind = without_name(annotation)
    return kind is int or any(map(_is_whole, get_args(kind)))
