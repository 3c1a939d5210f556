"""Whether the database has the schema that this code needs, or a later one."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import asyncpg
from sqlalchemy import Boolean, String, Table, column, func, select, table, text
from sqlmodel import SQLModel

from kernel.data.reader import ReadPool
from kernel.data.schema import head_revision, known_revisions
from kernel.driver_errors import sqlstate
from kernel.errors import DatabaseUnavailable
from kernel.fast.records import Record

# Exporting a snapshot writes a small file to the data directory while the statement runs, and no
# WAL: it fails when the disk is full.
APPLIED = select(
    column("version_num", String),
    func.pg_is_in_recovery(type_=Boolean).label("is_standby"),
    func.current_setting("transaction_read_only", type_=String).label("read_only"),
    func.pg_export_snapshot(type_=String),
).select_from(table("alembic_version"))
# The columns of the tables that unqualified names find.
COLUMNS = text(
    "SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
    " WHERE relname = ANY (CAST(:tables AS text[])) AND pg_table_is_visible(pg_class.oid)"
    " AND attnum > 0 AND NOT attisdropped"
)
BEHIND = "the database's schema is behind"
FOREIGN = "the database's schema lacks what this version needs"
NO_WRITES = "the database takes no writes"
DISK_FULL = "53100"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schema:
    """The revisions that a database has applied; `mistake` is why this code cannot serve on it."""

    revisions: frozenset[str]
    mistake: str | None


class SchemaReader:
    """Reads the schema on the readiness probe's own pool."""

    def __init__(self, pool: ReadPool) -> None:
        self.pool = pool
        self._unknown: dict[frozenset[str], bool] = {}

    async def read(self) -> Schema:
        """The schema that the database has now.

        A revision that this code knows is good if it is the newest. An unknown one is of a later
        version, during a rolling deploy: it is good if it has every table and column of this code's
        models, which is checked once for each set of revisions.

        Raises:
            Unavailable: the database cannot be reached.
        """
        try:
            rows = await self._applied()
        except DatabaseUnavailable as error:
            if error.__cause__ and sqlstate(error.__cause__) == DISK_FULL:
                return Schema(frozenset(), NO_WRITES)
            raise
        revisions = frozenset(row["version_num"] for row in rows)
        if any(row["is_standby"] or row["read_only"] == "on" for row in rows):
            return Schema(revisions, NO_WRITES)
        if known_revisions().issuperset(revisions):
            return Schema(revisions, None if head_revision() in revisions else BEHIND)
        if revisions not in self._unknown:
            self._unknown[revisions] = await self._has_all_columns(revisions)
        return Schema(revisions, None if self._unknown[revisions] else FOREIGN)

    async def _applied(self) -> Sequence[Record]:
        try:
            return await self.pool.fetch(APPLIED)
        except asyncpg.UndefinedTableError:
            return []

    async def _has_all_columns(self, revisions: frozenset[str]) -> bool:
        needed = {(table.name, column.name) for table in _tables() for column in table.columns}
        rows = await self.pool.fetch(COLUMNS, tables=[*{table for table, _ in needed}])
        missing = sorted(needed - {(row["relname"], row["attname"]) for row in rows})
        if missing:
            names = ", ".join(map(".".join, missing[:5]))
            logger.error(
                "the database is at %s, which this version does not know, and lacks %s: it is not"
                " this service's, or its schema has gone on too far",
                ", ".join(sorted(revisions)),
                f"{names} and more" if len(missing) > 5 else names,
            )
        return not missing


def _tables() -> Iterator[Table]:
    """The models' tables, without those of tests, which no migration creates."""
    for model in subclasses_of(SQLModel):
        parts = model.__module__.split(".")
        is_of_tests = any(part == "tests" or part.startswith("test_") for part in parts)
        if hasattr(model, "__table__") and not is_of_tests:
            yield model.__table__


def subclasses_of(model: type[SQLModel]) -> Iterator[type[SQLModel]]:
    """The subclasses of a model, with theirs."""
    for subclass in model.__subclasses__():
        yield subclass
        yield from subclasses_of(subclass)
