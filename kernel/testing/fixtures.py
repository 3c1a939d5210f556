"""What tests ask for by name: a service on a database of its own, and people who call it."""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import SecretStr

from features.auth.handlers.access import TokenSigner
from kernel.data.schema import upgrade_schema
from kernel.dev.embedded import server
from kernel.identity.passwords import PasswordVault
from kernel.logs import JsonFormatter
from kernel.settings import Settings
from kernel.testing.callers import PASSWORD, Caller
from kernel.testing.operations import Sampler
from kernel.tests.app import create_app, create_table

# Six times as fast as TRUNCATE for a few rows; as a replica, it asks no foreign key.
EMPTY = """
    DO $$ DECLARE name text; BEGIN
        SET LOCAL session_replication_role = replica;
        FOR name IN SELECT tablename FROM pg_tables
            WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        LOOP
            EXECUTE format('DELETE FROM %I', name);
        END LOOP;
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'seeds' LOOP
            EXECUTE format('INSERT INTO %1$I OVERRIDING SYSTEM VALUE TABLE seeds.%1$I', name);
        END LOOP;
        PERFORM setval(format('%I', sequencename)::regclass, coalesce(known, 1), known IS NOT NULL)
            FROM pg_sequences LEFT JOIN counted.sequences USING (sequencename)
            WHERE schemaname = 'public' AND last_value IS DISTINCT FROM known;
    END $$
"""
# The rows that migrations have made, in a schema of their own, and how far they have counted.
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

Connection = asyncpg.Connection
Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
Mount = Callable[..., AbstractAsyncContextManager[Caller]]
Database = Callable[[], AbstractAsyncContextManager[str]]


class Log(logging.Handler):
    """Records as lines of JSON, parsed."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JsonFormatter())
        self._lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(json.loads(self.format(record)))

    def lines(self, *levels: str) -> list[dict[str, Any]]:
        """Those of the levels, or all."""
        return [line for line in self._lines if not levels or line["level"] in levels]


# For every test: one that is not async may be the first to ask for an async fixture.
@pytest.fixture(scope="session", autouse=True)
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[str]:
    """A real PostgreSQL of this test run alone, which its workers share."""
    folder = tmp_path_factory.getbasetemp()
    with server((folder if worker_id == "master" else folder.parent) / "pg", durable=False) as url:
        yield url


@pytest.fixture(scope="session")
async def template(postgres: str, worker_id: str) -> str:
    """The name of a migrated database that others are cloned from, with the tests' own table."""
    name = f"template_{worker_id}"
    await _run(postgres, f"CREATE DATABASE {name}")
    await upgrade_schema(_url(postgres, name))
    await create_table(_url(postgres, name))
    await _run(_url(postgres, name), KEEP_SEEDS)
    return name


@pytest.fixture(scope="session")
def database(postgres: str, template: str, worker_id: str) -> Database:
    """Make a migrated database, dropped on leaving."""
    numbers = iter(range(10_000))

    @asynccontextmanager
    async def make() -> AsyncIterator[str]:
        name = f"test_{worker_id}_{next(numbers)}"
        await _run(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield _url(postgres, name)
        finally:
            await _run(postgres, f"DROP DATABASE {name} WITH (FORCE)")

    return make


@pytest.fixture(scope="session")
async def database_url(database: Database) -> AsyncIterator[str]:
    async with database() as url:
        yield url


@pytest.fixture(scope="session")
def settings(database_url: str) -> Settings:
    return Settings(_env_file=None, database_url=database_url, jwt_secret="test" * 8)


@pytest.fixture(scope="session")
async def running_app(settings: Settings) -> AsyncIterator[FastAPI]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture(scope="session")
async def _sql(database_url: str) -> AsyncIterator["Connection[Any]"]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def sql(_sql: "Connection[Any]", running_app: FastAPI) -> AsyncIterator["Connection[Any]"]:
    """A connection to the service's database, which is as it was migrated again afterwards."""
    yield _sql
    await _sql.execute(EMPTY)


@pytest.fixture
async def fail_first(sql: "Connection[Any]") -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Let the first inserts of peelings fail: `await fail_first(times=2, sqlstate="40P01")`; with a
    serialization failure unless said."""

    async def fail(times: int = 1, sqlstate: str = "40001") -> None:
        # A sequence, because the failed transaction would take back anything else that counts.
        await sql.execute(f"""
            CREATE SEQUENCE tries;
            CREATE FUNCTION fail_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('tries') <= {times} THEN
                    RAISE 'not yet' USING ERRCODE = '{sqlstate}';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER fail_first BEFORE INSERT ON peelings
                FOR EACH ROW EXECUTE FUNCTION fail_first();
        """)

    yield fail
    await sql.execute("DROP FUNCTION IF EXISTS fail_first CASCADE; DROP SEQUENCE IF EXISTS tries")


@pytest.fixture
async def app(running_app: FastAPI, sql: "Connection[Any]") -> FastAPI:
    """The service, with its lifespan begun and an empty database."""
    return running_app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is not signed in."""
    async with Caller(transport=_transport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
def serve(settings: Settings, sql: "Connection[Any]") -> Serve:
    """Serve the same database with other settings: `async with serve(env="prod") as client`."""

    @asynccontextmanager
    async def serve(**changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(settings.model_copy(update=changes))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=_transport(app), base_url="http://test") as client,
        ):
            yield client

    return serve


@pytest.fixture
def mount(settings: Settings, sql: "Connection[Any]") -> Mount:
    """Serve further routes, with other settings, to a client that is nobody yet:
    `async with mount(router, pool_size=1) as client`."""

    @asynccontextmanager
    async def mount(router: APIRouter, **changes: Any) -> AsyncIterator[Caller]:
        app = create_app(settings.model_copy(update=changes))
        app.include_router(router)
        async with (
            app.router.lifespan_context(app),
            Caller(transport=_transport(app), base_url="http://test") as client,
        ):
            client.app = app
            yield client

    return mount


@pytest.fixture
def log() -> Iterator[Log]:
    """What the service has logged, as its own formatter writes it in production."""
    keep = Log()
    logging.getLogger().addHandler(keep)
    yield keep
    logging.getLogger().removeHandler(keep)


@pytest.fixture
def password() -> str:
    """The password of every account made by `sign_up`."""
    return PASSWORD


@pytest.fixture(scope="session")
async def password_hash() -> str:
    return await PasswordVault().hash(SecretStr(PASSWORD))


@pytest.fixture
async def sign_up(
    app: FastAPI, sql: "Connection[Any]", password_hash: str
) -> AsyncIterator[Callable[..., Any]]:
    """Make an account straight in the database, and a caller with its token."""
    callers = []

    async def sign_up(name: str, role: str = "member") -> Caller:
        caller = Caller(transport=_transport(app), base_url="http://test")
        caller.email = f"{name.lower()}@example.com"
        caller.user_id = await sql.fetchval(
            "INSERT INTO users (email, full_name, password_hash, role) VALUES ($1, $2, $3, $4)"
            " RETURNING id",
            caller.email,
            name,
            password_hash,
            role,
        )
        token = app.state.resources.get(TokenSigner).issue(caller.user_id)
        caller.headers["Authorization"] = f"Bearer {token}"
        callers.append(caller)
        return caller

    yield sign_up
    for caller in callers:
        await caller.aclose()


@pytest.fixture
async def alice(sign_up: Callable[..., Any]) -> Caller:
    caller: Caller = await sign_up("Alice")
    return caller


@pytest.fixture
async def bob(sign_up: Callable[..., Any]) -> Caller:
    caller: Caller = await sign_up("Bob")
    return caller


@pytest.fixture
async def admin(sign_up: Callable[..., Any]) -> Caller:
    caller: Caller = await sign_up("Admin", "admin")
    return caller


@pytest.fixture
def make(app: FastAPI, admin: Caller) -> Callable[[str], Any]:
    """Make a valid row of a collection, as an admin: `row = await make("/items")`."""
    sampler = Sampler(app, admin)

    async def make(collection: str) -> dict[str, Any]:
        answer = await sampler.call(sampler.operations["POST", collection])
        row: dict[str, Any] = answer.raise_for_status().json()
        return row

    return make


def _transport(app: FastAPI) -> httpx.ASGITransport:
    return httpx.ASGITransport(app, raise_app_exceptions=False)


def _url(server_url: str, name: str) -> str:
    return server_url.replace("/postgres?", f"/{name}?")


async def _run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
