"""The versions that rows had before a unit of work changed them, for a request with `If-Match`.

The row that the URL names is read and locked right before the first statement that may change
something, or else at the end. The path segment before the key names the row's table; if it does
not, the row is one of those that the handler has read or changed.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Delete, Table, Update, event, select
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.util import await_, greenlet_spawn

from kernel.data.driver import Connection
from kernel.data.named_rows import NamedRow, has_version, key_of
from kernel.data.seen_rows import ANY, SeenRow, SeenRows
from kernel.data.unit_of_work import UnitOfWork
from kernel.fast.plain_types import POSTGRES

T = TypeVar("T")
READING = re.compile(
    r"[\s(]*(?:SELECT|SHOW|VALUES|WITH\b(?!.*\b(?:INSERT|UPDATE|DELETE|MERGE)\b))\b",
    re.IGNORECASE | re.DOTALL,
)
CHANGED = re.compile(
    r'\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+(?:ONLY\s+)?(?:(?:\w+|"[^"]+")\s*\.\s*)?"?(\w+)',
    re.IGNORECASE,
)
# These change no rows. The row is locked before them all the same: PostgreSQL releases a lock that
# was taken behind a savepoint when it rolls back to that.
CONTROL = re.compile(r"\s*(?:SAVEPOINT|RELEASE|ROLLBACK|SET|LOCK)\b", re.IGNORECASE)
MAX_ROWS = 100  # rows of one UPDATE that are read beforehand


class SeenVersions:
    """Notes the rows that a session reads and changes, with their versions, until `end`."""

    def __init__(self, session: Session, unit: UnitOfWork, named: NamedRow) -> None:
        self._session, self._unit, self._named = session, unit, named
        self._rows = SeenRows(named)
        self._row: SeenRow | None = None
        self._locked_in: object = None
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

    def note_records(self, statement: Any, records: Sequence[Any]) -> None:
        """Note the rows that a query returned."""
        self._rows.note_records(statement, records)

    async def looking_away(self, work: Awaitable[T]) -> T:
        """Await work that reads rows which the request is not about: the caller's account, say."""
        self._rows.is_away = True
        try:
            return await work
        finally:
            self._rows.is_away = False

    async def of_named_row(
        self, response_row: Mapping[str, Any] | None, *, is_action: bool
    ) -> set[int] | None:
        """The versions that the row had which the URL names: an empty set if there is no such row,
        None if it cannot be determined. `response_row` is the row in the response. An action may
        change other rows, so the row that it has changed is not taken for the named one."""
        raw = await self._unit.begin()
        await self._lock(raw)
        row = self._row or self._rows.by_key() or self._rows.by_answer(response_row or {})
        if row is None and not is_action:
            row = self._rows.first_changed()
        if row is None:
            return set() if self._named.places() else None
        if not row.is_changed and row is not self._row and not self._rows.is_written(row.table):
            await self._read(raw, key_of(row.table), row.key)
        return row.versions

    def known_versions(self) -> set[int]:
        """The versions of the row that the URL names, as far as they are known yet."""
        row = self._row or self._rows.by_key()
        return row.versions if row else set()

    def _note_loaded(self, _: Any, instance: Any) -> None:
        self._rows.note_instance(instance)

    def _note_flushed(self, session: Session, *_: Any) -> None:
        changed = [row for row in session.dirty if session.is_modified(row)]
        for instance in (*changed, *session.deleted):
            if row := self._rows.note_instance(instance):
                row.is_changed = True

    def _note_statement(self, state: ORMExecuteState) -> None:
        values = state.parameters if isinstance(state.parameters, dict) else {}
        await_(self.before_change(state.statement, values))

    async def before_change(self, statement: Any, values: Mapping[str, Any]) -> None:
        """Read and lock the rows that an UPDATE or DELETE will change, if the URL has no key."""
        table = statement.table if isinstance(statement, Update | Delete) else None
        if not isinstance(table, Table) or not has_version(table) or self._named.places():
            return
        rows = select(*table.primary_key, table.c.version).limit(MAX_ROWS)
        if statement.whereclause is not None:
            rows = rows.where(statement.whereclause)
        rows = rows.with_for_update(key_share=True, of=table)
        needed = {name: values[name] for name in rows.compile().params.keys() & values.keys()}
        connection = await self._unit.join()
        for record in (await greenlet_spawn(connection.execute, rows, needed)).mappings():
            if row := self._rows.note(table, dict(record), record["version"]):
                row.is_changed = True

    async def _before_statement(self, raw: Connection, sql: str) -> None:
        if READING.match(sql):
            return
        await self._lock(raw)
        if not CONTROL.match(sql):
            match = CHANGED.match(sql)
            self._rows.write(match[1] if match else ANY)

    async def _lock(self, raw: Connection) -> None:
        """Lock the row that the URL names, if it is known yet, until the transaction ends."""
        if self._locked_in is raw.outermost:
            return
        if self._locked_in is not None:  # another transaction, which was rolled back
            self._rows.forget_changes()
        self._locked_in, self._row = raw.outermost, None
        seen = self._rows.by_key()
        if seen is None or self._named.table is not seen.table:
            for column, value in self._named.places():
                self._row = await self._read(raw, column, value) or self._row
        if self._row is None and seen is not None:
            self._row = await self._read(raw, key_of(seen.table), seen.key)
            if self._row is None:  # deleted since it was seen
                seen.versions.clear()
                self._row = seen

    async def _read(self, raw: Connection, column: Column[Any], value: Any) -> SeenRow | None:
        table: Any = column.table
        name, quote = key_of(table).name, POSTGRES.identifier_preparer.quote
        names = f"{quote(name)}, version FROM {POSTGRES.identifier_preparer.format_table(table)}"
        sql = f"SELECT {names} WHERE {quote(column.name)} = $1 FOR NO KEY UPDATE"  # our own names
        for record in await raw.run(sql, value):
            row = self._rows.add((table.name, record[name]), SeenRow(table, dict(record)), None)
            row.versions.add(record["version"])
            return row
        return None
