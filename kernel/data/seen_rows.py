"""The rows that a unit of work has come upon, with the versions that they had before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from sqlalchemy import Select, Table, inspect

from kernel.data.named_rows import NamedRow, has_version, key_of

ANY = ""  # table


@dataclass(eq=False)
class SeenRow:
    """A row that the unit of work came upon, and the versions that it had until it was changed."""

    table: Table
    values: Mapping[str, Any]
    versions: set[int] = field(default_factory=set)
    is_changed: bool = False

    @property
    def key(self) -> Any:
        return self.values[key_of(self.table).name]


class SeenRows:
    """What was seen of rows, in this order; what `written` says is no longer to be seen."""

    def __init__(self, named: NamedRow) -> None:
        self._named = named
        self._rows: dict[tuple[str, Any], SeenRow] = {}
        self._written: set[str] = set()
        self.is_away = False

    def by_key(self) -> SeenRow | None:
        found = [row for row in self._rows.values() if self._named.is_of(row.table, row.values)]
        of_table = [row for row in found if row.table is self._named.table]
        return next(iter(of_table or found), None)

    def by_answer(self, answered: Mapping[str, Any]) -> SeenRow | None:
        """The row of this id: one that was changed first, and of several the one whose version
        fits best."""
        fitting = []
        for row in self._rows.values():
            further = answered.get("version", 0) - max(row.versions, default=0)
            if row.key == answered.get("id") and (further > 0 if row.is_changed else further == 0):
                fitting.append((not row.is_changed, further, row))
        return min(fitting, key=itemgetter(0, 1))[2] if fitting else None

    def first_changed(self) -> SeenRow | None:
        return next((row for row in self._rows.values() if row.is_changed), None)

    def note_records(self, statement: Any, records: Sequence[Any]) -> None:
        """Note the rows that a query gave with their key and their version."""
        columns: Any = statement.selected_columns if isinstance(statement, Select) else {}
        table = getattr(columns.get("version"), "table", None)
        if isinstance(table, Table) and has_version(table):
            name = key_of(table).name
            if getattr(columns.get(name), "table", None) == table:
                for record in records:
                    self.note(table, dict(record), record["version"])

    def note(self, table: Table, values: Mapping[str, Any], version: int | None) -> SeenRow | None:
        place = (table.name, values[key_of(table).name])
        if self.is_away or self.is_written(table):
            return self._rows.get(place)  # what it had before is no longer to be seen
        return self.add(place, SeenRow(table, values), version)

    def add(self, place: tuple[str, Any], row: SeenRow, version: int | None) -> SeenRow:
        row = self._rows.setdefault(place, row)
        if version is not None and not row.is_changed:
            row.versions.add(version)
        return row

    def is_written(self, table: Table) -> bool:
        return not self._written.isdisjoint((table.name, ANY))

    def note_instance(self, instance: Any) -> SeenRow | None:
        state = inspect(instance)
        column, known = state.mapper.version_id_col, state.dict
        table = getattr(column, "table", None)
        if not isinstance(table, Table) or not has_version(table) or not state.identity:
            return None
        attributes = [each for each in state.mapper.column_attrs if each.key in known]
        values = {part.name: known[each.key] for each in attributes for part in each.columns}
        history = state.attrs[state.mapper.get_property_by_column(column).key].history
        version = next(iter(history.deleted or history.unchanged or ()), None)
        return self.note(table, {**values, key_of(table).name: state.identity[0]}, version)

    def write(self, table: str) -> None:
        """Note that rows of the table, or of ANY, are changed from now on."""
        self._written.add(table)

    def forget_changes(self) -> None:
        """They were taken back."""
        self._written.clear()
        for row in self._rows.values():
            row.is_changed = False
