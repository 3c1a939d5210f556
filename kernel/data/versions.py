"""The versions that rows had before a unit of work changed them, for a request with `If-Match`.

The row that the URL names is read and locked right before the first statement that may change
something, or else at the end. Which row it is says the table in front of the key, or else the rows
that the handler has come upon.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Column, Delete, Select, Table, Update, event, inspect, select
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.util import await_, greenlet_spawn

from kernel.data.driver import Connection
from kernel.data.named_rows import NamedRow, has_version, key_of
from kernel.data.unit_of_work import UnitOfWork
from kernel.fast.statements import POSTGRES

T = TypeVar("T")
READING = re.compile(r"\s*(?:SELECT|SHOW)\b", re.IGNORECASE)
CHANGED = re.compile(r'\s*(?:INSERT INTO|UPDATE|DELETE FROM)\s+(?:ONLY\s+)?"?(\w+)', re.IGNORECASE)
# These change no rows; behind a savepoint, a lock would end with it.
CONTROL = re.compile(r"\s*(?:SAVEPOINT|RELEASE|ROLLBACK|SET|LOCK)\b", re.IGNORECASE)
ANY = ""  # table
MOST = 100  # rows of one UPDATE that are looked at beforehand


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


class SeenVersions:
    """Watches a session until `end`."""

    def __init__(self, session: Session, unit: UnitOfWork, named: NamedRow) -> None:
        self._session, self._unit, self._named = session, unit, named
        self._rows: dict[tuple[str, Any], SeenRow] = {}
        self._written: set[str] = set()
        self._row: SeenRow | None = None
        self._locked_in: object = None
        self._is_away = False
        self._listeners: dict[str, Callable[..., None]] = {
            "loaded_as_persistent": self._note_loaded,
            "before_flush": self._note_flushed,
            "do_orm_execute": self._note_statement,
        }
        for name, listener in self._listeners.items():
            event.listen(session, name, listener)
        unit.watch(self._before_statement)

    def end(self) -> None:
        self._unit.watch(None)
        for name, listener in self._listeners.items():
            event.remove(self._session, name, listener)

    async def looking_away(self, work: Awaitable[T]) -> T:
        """Do what comes upon rows that the request is not about, such as the caller's account."""
        self._is_away = True
        try:
            return await work
        finally:
            self._is_away = False

    async def of_named_row(
        self, answered: Mapping[str, Any] | None, *, is_action: bool
    ) -> set[int] | None:
        """The versions that the row had which the URL names: none if it is not there, and None if
        nobody can tell which one it is. `answered` is the row that the answer is about; an action
        changes others as well, so that what it has changed need not be what it is about."""
        raw = await self._unit.begin()
        await self._lock(raw)
        row = self._row or self._by_key() or self._by_answer(answered or {})
        if row is None and not is_action:
            row = next((each for each in self._rows.values() if each.is_changed), None)
        if row is None:
            return set() if self._named.places() else None
        if not row.is_changed and row is not self._row and not self._is_written(row.table):
            await self._read(raw, key_of(row.table), row.key)
        return row.versions

    def known_versions(self) -> set[int]:
        """Those of the row that the URL names, as far as they are known by now."""
        row = self._row or self._by_key()
        return row.versions if row else set()

    def _by_key(self) -> SeenRow | None:
        found = [row for row in self._rows.values() if self._named.is_of(row.table, row.values)]
        of_table = [row for row in found if row.table is self._named.table]
        return next(iter(of_table or found), None)

    def _by_answer(self, answered: Mapping[str, Any]) -> SeenRow | None:
        """The row of this id; of several, the one whose version fits."""
        for row in self._rows.values():
            version, known = answered.get("version", 0), max(row.versions, default=0)
            fits = version > known if row.is_changed else version == known
            if fits and row.key == answered.get("id"):
                return row
        return None

    # What is seen of rows.

    def note_records(self, statement: Any, records: list[Any]) -> None:
        """Note the rows that a query gave with their key and their version."""
        columns: Any = statement.selected_columns if isinstance(statement, Select) else {}
        table = getattr(columns.get("version"), "table", None)
        if isinstance(table, Table) and has_version(table):
            name = key_of(table).name
            if getattr(columns.get(name), "table", None) == table:
                for record in records:
                    self._note(table, dict(record), record["version"])

    def _note(self, table: Table, values: Mapping[str, Any], version: int | None) -> SeenRow | None:
        place = (table.name, values[key_of(table).name])
        if self._is_away or self._is_written(table):
            return self._rows.get(place)  # what it had before is no longer to be seen
        return self._add(place, SeenRow(table, values), version)

    def _add(self, place: tuple[str, Any], row: SeenRow, version: int | None) -> SeenRow:
        row = self._rows.setdefault(place, row)
        if version is not None and not row.is_changed:
            row.versions.add(version)
        return row

    def _is_written(self, table: Table) -> bool:
        return not self._written.isdisjoint((table.name, ANY))

    def _note_instance(self, instance: Any) -> SeenRow | None:
        state = inspect(instance)
        table, column = state.mapper.local_table, state.mapper.version_id_col
        if column is None or not isinstance(table, Table) or not has_version(table):
            return None
        history = state.attrs[column.key].history  # a value that the handler has set is none
        version = next(iter(history.deleted or history.unchanged or ()), None)
        key = {key_of(table).name: state.identity[0]} if state.identity else {}
        return self._note(table, {**state.dict, **key}, version) if key else None

    def _note_loaded(self, _: Any, instance: Any) -> None:
        self._note_instance(instance)

    def _note_flushed(self, session: Session, *_: Any) -> None:
        changed = [each for each in session.dirty if session.is_modified(each)]
        for instance in (*changed, *session.deleted):
            if row := self._note_instance(instance):
                row.is_changed = True

    def _note_statement(self, state: ORMExecuteState) -> None:
        values = state.parameters if isinstance(state.parameters, dict) else {}
        await_(self.before_change(state.statement, values))

    # Before something is changed.

    async def before_change(self, statement: Any, values: Mapping[str, Any]) -> None:
        """Look at the rows that an UPDATE or DELETE is about to change, if no key tells them."""
        table = statement.table if isinstance(statement, Update | Delete) else None
        if not isinstance(table, Table) or not has_version(table) or self._named.places():
            return
        rows = select(*table.primary_key, table.c.version).limit(MOST)
        if statement.whereclause is not None:
            rows = rows.where(statement.whereclause)
        rows = rows.with_for_update(key_share=True, of=table)
        needed = {name: values[name] for name in rows.compile().params.keys() & values.keys()}
        connection = await self._unit.join()
        for found in (await greenlet_spawn(connection.execute, rows, needed)).mappings():
            if row := self._note(table, dict(found), found["version"]):
                row.is_changed = True

    async def _before_statement(self, raw: Connection, sql: str) -> None:
        if READING.match(sql):
            return
        await self._lock(raw)
        if not CONTROL.match(sql):
            found = CHANGED.match(sql)
            self._written.add(found[1] if found else ANY)

    async def _lock(self, raw: Connection) -> None:
        """Lock the row that the URL names, if that is known by now, until the transaction ends."""
        if self._locked_in is raw.outermost:
            return
        self._locked_in, self._row = raw.outermost, None
        self._written.clear()  # by a transaction that was taken back, if at all
        for row in self._rows.values():
            row.is_changed = False
        seen = self._by_key()
        if seen is None or self._named.table is not seen.table:
            for column, value in self._named.places():
                self._row = await self._read(raw, column, value) or self._row
        if self._row is None and seen is not None:
            self._row = await self._read(raw, key_of(seen.table), seen.key)

    async def _read(self, raw: Connection, column: Column[Any], value: Any) -> SeenRow | None:
        table: Any = column.table
        name, quote = key_of(table).name, POSTGRES.identifier_preparer.quote
        names = f"{quote(name)}, version FROM {POSTGRES.identifier_preparer.format_table(table)}"
        sql = f"SELECT {names} WHERE {quote(column.name)} = $1 FOR NO KEY UPDATE"  # names of ours
        for found in await raw.run(sql, value):
            row = SeenRow(table, dict(found))
            return self._add((table.name, found[name]), row, found["version"])
        return None
