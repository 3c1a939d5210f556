"""The rows that a unit of work has read, with the versions that they had before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from sqlalchemy import Select, Table, inspect

from kernel.data.named_rows import NamedRow, has_version, key_of

ANY = ""  # stands for any table


@dataclass(eq=False)
class SeenRow:
    """A row that the unit of work has read, and the versions that it had until it was changed."""

    table: Table
    values: Mapping[str, Any]
    versions: set[int] = field(default_factory=set)
    is_changed: bool = False

    @property
    def key(self) -> Any:
        return self.values[key_of(self.table).name]


class SeenRows:
    """The rows seen, in order. Rows of a table are not added any more once it is in `_written`:
    their versions before the change can no longer be read."""

    def __init__(self, named: NamedRow) -> None:
        self._named = named
        self._rows: dict[tuple[str, Any], SeenRow] = {}
        self._written: set[str] = set()
        self.is_away = False

    def by_key(self) -> SeenRow | None:
        rows = [row for row in self._rows.values() if self._named.is_of(row.table, row.values)]
        of_table = [row for row in rows if row.table is self._named.table]
        return next(iter(of_table or rows), None)

    def by_answer(self, answered: Mapping[str, Any]) -> SeenRow | None:
        """The row with the answer's id. A changed one is preferred, then the one whose version is
        nearest to the answer's."""
        fitting = []
        for row in self._rows.values():
            further = answered.get("version", 0) - max(row.versions, default=0)
            if row.key == answered.get("id") and (further > 0 if row.is_changed else further == 0):
                fitting.append((not row.is_changed, further, row))
        return min(fitting, key=itemgetter(0, 1))[2] if fitting else None

    def first_changed(self) -> SeenRow | None:
        return next((row for row in self._rows.values() if row.is_changed), None)

    def note_records(self, statement: Any, records: Sequence[Any]) -> None:
        """Note the rows of a query that selects their key and their version."""
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
            return self._rows.get(place)  # too late to read the version it had before
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
        column, loaded = state.mapper.version_id_col, state.dict
        table = getattr(column, "table", None)
        if not isinstance(table, Table) or not has_version(table) or not state.identity:
            return None
        attributes = [attr for attr in state.mapper.column_attrs if attr.key in loaded]
        values = {part.name: loaded[attr.key] for attr in attributes for part in attr.columns}
        history = state.attrs[state.mapper.get_property_by_column(column).key].history
        version = next(iter(history.deleted or history.unchanged or ()), None)
        return self.note(table, {**values, key_of(table).name: state.identity[0]}, version)

    def write(self, table: str) -> None:
        """Note that rows of the table, or of ANY table, are being changed from now on."""
        self._written.add(table)

    def forget_changes(self) -> None:
        """The changes were rolled back."""
        self._written.clear()
        for row in self._rows.values():
            row.is_changed = False
