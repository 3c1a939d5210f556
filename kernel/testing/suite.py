"""Fixtures of a database and the service on it, for the tests of a folder and those below.

The plugin has them for the service itself. A folder that overrides `create_app` or `migrate`
imports the others into its `conftest.py` as well: pytest caches a session fixture where it is
defined, so that only imported ones are made anew for the folder.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI

from kernel.data.schema import upgrade_schema
from kernel.dev.embedded import as_service
from kernel.settings import Settings, SliceSettings, slice_settings
from kernel.testing.walking import walk_of

# Copies the rows that migrations have made into the schema `seeds`, and the sequences' last values
# into `counted`.
KEEP_SEEDS = """
    DO $$ DECLARE name text; has_rows boolean; BEGIN
        CREATE SCHEMA counted;
        CREATE TABLE counted.sequences AS
            SELECT sequencename, last_value AS known FROM pg_sequences WHERE schemaname = 'public';
        CREATE SCHEMA seeds;
        FOR name IN SELECT tablename FROM pg_tables
            WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO has_rows;
            IF has_rows THEN
                EXECUTE format('CREATE TABLE seeds.%1$I AS TABLE %1$I', name);
            END IF;
        END LOOP;
    END $$
"""


# Tests bring their own settings: the developer's `.env` is read by none, nor by those of slices.
kinds: list[type[SliceSettings]] = [SliceSettings, Settings, *slice_settings()]
for kind in kinds:
    kind.model_config["env_file"] = None

Connection = asyncpg.Connection
Database = Callable[[], AbstractAsyncContextManager[str]]
CreateApp = Callable[[Settings], FastAPI]
Migrate = Callable[[str], Awaitable[None]]
_numbers = count(1)  # of all suites of a run


@pytest.fixture(scope="session")
def create_app(request: pytest.FixtureRequest) -> CreateApp:
    """The function that builds the app under test: the service's own."""
    return walk_of(request.session).create_app  # of the root, not of a folder below


@pytest.fixture(scope="session")
def migrate() -> Migrate:
    """The function that makes the tables in an empty database: the migrations."""
    return upgrade_schema


@pytest.fixture(scope="session")
async def template(postgres: str, migrate: Migrate, worker_id: str) -> str:
    """The name of a migrated database, of which tests get clones."""
    name = f"template_{worker_id}_{next(_numbers)}"
    await _run(postgres, f"CREATE DATABASE {name} OWNER app")
    await migrate(as_service(postgres, name))
    await _run(as_service(postgres, name), KEEP_SEEDS)
    return name


@pytest.fixture(scope="session")
def database(postgres: str, template: str, worker_id: str) -> Database:
    """Make a migrated database, dropped on leaving."""

    @asynccontextmanager
    async def make() -> AsyncIterator[str]:
        name = f"test_{worker_id}_{next(_numbers)}"
        await _run(postgres, f"CREATE DATABASE {name} OWNER app TEMPLATE {template}")
        try:
            yield as_service(postgres, name)
        finally:
            await _run(postgres, f"DROP DATABASE {name} WITH (FORCE)")

    return make


@pytest.fixture(scope="session")
async def database_url(database: Database) -> AsyncIterator[str]:
    async with database() as url:
        yield url


@pytest.fixture(scope="session")
def settings(database_url: str) -> Settings:
    # On a busy machine a request may take its time: a test of a deadline gives its own.
    settings = Settings(
        _env_file=None,
        database_url=database_url,
        jwt_secret="test" * 8,
        jobs="off",
        request_timeout=60,
        pool_timeout=10,
    )
    return settings.having(*[kind() for kind in slice_settings()])


@pytest.fixture(scope="session")
async def running_app(settings: Settings, create_app: CreateApp) -> AsyncIterator[FastAPI]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture(scope="session")
async def sql_connection(database_url: str) -> AsyncIterator["Connection[Any]"]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def _run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
