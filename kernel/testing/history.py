"""The history of migrations, and databases to run it in."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import asyncpg
from alembic import command
from alembic.script import Script, ScriptDirectory
from alembic.util import to_tuple
from anyio import to_thread
from sqlalchemy import Connection, Table
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

from kernel.data.readiness import subclasses_of
from kernel.data.schema import migration_config
from kernel.dev.embedded import as_service

# Oldest first; of branches, each revision after those that it follows.
REVISIONS = list(ScriptDirectory.from_config(migration_config("")).walk_revisions())[::-1]
# Everything that a migration may make, one line each.
SHAPE = """
    SELECT format('%s %s', relkind, oid::regclass) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT format('%s.%s %s %s %s %s', attrelid::regclass, attname,
                  format_type(atttypid, atttypmod), attnotnull, attidentity,
                  pg_get_expr(adbin, adrelid))
    FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
    LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0
      AND NOT attisdropped
    UNION ALL
    SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT format('type %s', typname) FROM pg_type
    WHERE typnamespace = 'public'::regnamespace AND typtype IN ('d', 'e')
    UNION ALL
    SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT format('function %s %s', oid::regprocedure, prosrc) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace
"""
# Names of constraints and indexes by their kind, without NOT NULL, which has no name of ours.
NAMES = """
    SELECT conrelid::regclass::text AS table, contype::text AS kind, conname AS name
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
      AND conrelid <> 'alembic_version'::regclass
    UNION ALL
    SELECT tablename, 'i', indexname FROM pg_indexes
    WHERE schemaname = 'public' AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""
PREFIXES = {"p": "pk", "u": "uq", "f": "fk", "c": "ck", "x": "ex", "i": "ix"}

_numbers = count()


def parents(script: Script) -> tuple[str, ...]:
    """The revisions that it follows: none for the first, several for a merge."""
    return tuple(to_tuple(script.down_revision, default=()))


@asynccontextmanager
async def empty_database(postgres: str, worker_id: str) -> AsyncIterator[str]:
    """A database with nothing in it, dropped on leaving."""
    name = f"empty_{worker_id}_{next(_numbers)}"
    await query(postgres, f"CREATE DATABASE {name} OWNER app")
    yield as_service(postgres, name)
    await query(postgres, f"DROP DATABASE {name} WITH (FORCE)")


async def migrate(step: Callable[..., Any], url: str, *arguments: str) -> None:
    """Run an Alembic command; in a thread, because `env.py` has a loop of its own."""
    try:
        await to_thread.run_sync(step, migration_config(url), *arguments)
    except Exception as error:
        error.add_note(f"during: alembic {' '.join([step.__name__, *arguments])}")
        raise


async def go_to(url: str, *revisions: str) -> None:
    """Migrate down to nothing and up to these revisions alone, without those of other branches."""
    await migrate(command.downgrade, url, "base")
    for revision in revisions:
        await migrate(command.upgrade, url, revision)


async def query(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = await connection.fetch(statement)
    finally:
        await connection.close()
    return rows


async def shape(url: str) -> set[str]:
    """The schema, one line for each object in it, without Alembic's own table."""
    return {line for (line,) in await query(url, SHAPE) if "alembic_version" not in line}


async def make_tables(url: str, tables: list[Table] | None = None) -> None:
    """Create the models' missing tables: all of them, or these."""

    def make(connection: Connection) -> None:
        SQLModel.metadata.create_all(connection, tables)

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda *_, **__: asyncpg.connect(url)
    )
    async with engine.begin() as connection:
        await connection.run_sync(make)
    await engine.dispose()


def tables_of_tests() -> list[Table]:
    """The tables of the kernel's tests, which are among the models once these are imported. No
    migration makes them."""
    names = {
        model.__tablename__
        for model in subclasses_of(SQLModel)
        if model.__module__.startswith("kernel.tests.") and hasattr(model, "__table__")
    }
    return [table for table in SQLModel.metadata.sorted_tables if table.name in names]


def difference(expected: set[str], actual: set[str]) -> str:
    """The missing lines (-) and the extra ones (+), one below the other."""
    missing = [f"  - {line}" for line in sorted(expected - actual)]
    return "\n".join(["", *missing, *(f"  + {line}" for line in sorted(actual - expected))])


def is_conventional(table: str, kind: str, name: str) -> bool:
    return f"{name}_".startswith(f"{PREFIXES[kind]}_{table}_")
