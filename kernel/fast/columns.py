"""The columns of a statement by the names that a DTO takes, which have to be the database's."""

from collections.abc import Collection, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel
from sqlalchemy import ClauseElement, ColumnClause, CompoundSelect, Select, UpdateBase, inspect
from sqlalchemy.sql.visitors import iterate

# The DTOs that a statement is known to have columns for: by the statement, while that lives.
_checked: WeakKeyDictionary[ClauseElement, set[type]] = WeakKeyDictionary()


def check_columns(model: type[BaseModel], statement: ClauseElement) -> None:
    """Raise TypeError if two columns of the statement have a name that the DTO takes, before
    SQLAlchemy gives one of them another name, or if one has another name in the database."""
    if (checked := _checked.get(statement)) is None:
        checked = _checked[statement] = set()
    if model not in checked:
        if names := frozenset(_repeated_names(statement)):
            refuse_repeated(model, names)
        while isinstance(statement, CompoundSelect):
            statement = statement.selects[0]
        if isinstance(statement, Select | UpdateBase):
            _refuse_renamed(model, statement)
        checked.add(model)


def _refuse_renamed(model: type[BaseModel], statement: Select[Any] | UpdateBase) -> None:
    columns = statement.exported_columns
    names = {getattr(column, "name", "") for column in columns}
    missing = model.model_fields.keys() - names
    if not missing:
        return
    renamed: dict[Any, Any] = {**columns}
    for part in _parts_of(statement):
        entity: Any = part.get("entity")
        if entity is not None and part["expr"] is entity:
            renamed |= inspect(entity).mapper.columns.items()
    for name in missing:
        column: Any = renamed.get(name)
        is_there = getattr(column, "name", None) in names
        if is_there and model.model_fields[name].validation_alias is None:
            raise TypeError(
                f"{model.__name__} takes {name}, which the database calls {column.name}:"
                f' label it, as in Thing.{name}.label("{name}")'
            )


def _parts_of(statement: Any) -> list[Any]:
    is_select = isinstance(statement, Select)
    return [*statement.column_descriptions] if is_select else [statement.entity_description]


def _repeated_names(statement: ClauseElement) -> Iterator[str]:
    columns: dict[str, list[Any]] = {}
    try:
        for column in getattr(statement, "exported_columns", ()):
            columns.setdefault(getattr(column, "name", ""), []).append(column)
    except NotImplementedError:  # of `from_statement`, whose columns the result tells
        return
    for name, (first, *others) in columns.items():
        if not all(first.compare(other) and _sources(first) == _sources(other) for other in others):
            yield name


def _sources(column: ClauseElement) -> set[Any]:
    """The very tables of an expression: to `compare`, two aliases of one are the same."""
    return {part.table for part in iterate(column) if isinstance(part, ColumnClause)}


def refuse_repeated(model: type[BaseModel], names: Collection[str]) -> None:
    fields = model.model_fields
    taken = {*fields, *(str(field.validation_alias) for field in fields.values())}
    if twice := " and ".join(sorted(taken.intersection(names))):
        raise TypeError(
            f"{model.__name__} takes {twice}, of which the statement has two:"
            ' label one of them, as in User.id.label("user_id")'
        )
