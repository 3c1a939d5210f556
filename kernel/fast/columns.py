"""Checks that a DTO's fields find their columns in a statement, each by one name of its own."""

from collections.abc import Collection, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel
from sqlalchemy import ClauseElement, ColumnClause, CompoundSelect, Select, UpdateBase, inspect
from sqlalchemy.sql.visitors import iterate

# By statement, the DTOs that it was already checked for.
_checked: WeakKeyDictionary[ClauseElement, set[type]] = WeakKeyDictionary()


def check_columns(model: type[BaseModel], statement: ClauseElement) -> None:
    """Raise TypeError if two columns of the statement have the name of one field of the DTO (in
    its result, SQLAlchemy would rename one), or if a field's column has another name in SQL."""
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
    for description in _descriptions(statement):
        entity: Any = description.get("entity")
        if entity is not None and description["expr"] is entity:
            renamed |= inspect(entity).mapper.columns.items()
    for name in missing:
        column: Any = renamed.get(name)
        is_selected = getattr(column, "name", None) in names
        if is_selected and model.model_fields[name].validation_alias is None:
            raise TypeError(
                f"{model.__name__} has the field {name}, whose column is called {column.name}:"
                f' label it, as in Thing.{name}.label("{name}")'
            )


def _descriptions(statement: Any) -> list[Any]:
    is_select = isinstance(statement, Select)
    return [*statement.column_descriptions] if is_select else [statement.entity_description]


def _repeated_names(statement: ClauseElement) -> Iterator[str]:
    columns: dict[str, list[Any]] = {}
    try:
        for column in getattr(statement, "exported_columns", ()):
            columns.setdefault(getattr(column, "name", ""), []).append(column)
    except NotImplementedError:  # of `from_statement`: only its result has columns
        return
    for name, (first, *others) in columns.items():
        if not all(first.compare(other) and _sources(first) == _sources(other) for other in others):
            yield name


def _sources(column: ClauseElement) -> set[Any]:
    """The tables of an expression. `compare` takes two aliases of one table for the same."""
    return {part.table for part in iterate(column) if isinstance(part, ColumnClause)}


def refuse_repeated(model: type[BaseModel], names: Collection[str]) -> None:
    """Raise TypeError if the DTO has a field of one of these names, which several columns have."""
    fields = model.model_fields
    field_names = {*fields, *(str(field.validation_alias) for field in fields.values())}
    if twice := " and two called ".join(sorted(field_names.intersection(names))):
        raise TypeError(
            f"the statement has two columns called {twice}, for one field of {model.__name__}:"
            ' label one of them, as in User.id.label("user_id")'
        )
