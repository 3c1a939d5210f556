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

from kernel.data.resources import resources_of
from kernel.dev.embedded import as_superuser, server
from kernel.identity.passwords import PasswordVault
from kernel.logs import JsonFormatter
from kernel.reminders import Reminders
from kernel.settings import Settings, SliceSettings
from kernel.testing.callers import PASSWORD, Caller
from kernel.testing.hooks import settle
from kernel.testing.suite import CreateApp

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
# The first inserts fail. A sequence counts them, because no rollback undoes a sequence.
FAIL_FIRST = """
    CREATE SEQUENCE tries;
    CREATE FUNCTION fail_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('tries') <= {times} THEN
            RAISE 'not yet' USING ERRCODE = '{sqlstate}';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER fail_first BEFORE INSERT ON {table}
        FOR EACH ROW EXECUTE FUNCTION fail_first();
"""

Connection = asyncpg.Connection
Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
Mount = Callable[..., AbstractAsyncContextManager[Caller]]
SignUp = Callable[..., Awaitable[Caller]]
SignIn = Callable[[FastAPI, int], dict[str, str] | Awaitable[dict[str, str]]]


class Log(logging.Handler):
    """Records as lines of JSON, parsed."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JsonFormatter())
        self._lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(json.loads(self.format(record)))

    def lines(self, *levels: str) -> list[dict[str, Any]]:
        """Those of these levels ("WARNING"), or all: the members of each line by name."""
        return [line for line in self._lines if not levels or line["level"] in levels]


# For every test: one that is not async may be the first to ask for an async fixture.
@pytest.fixture(scope="session", autouse=True)
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[str]:
    """A real PostgreSQL of this test run alone, which its workers share, as its superuser."""
    folder = tmp_path_factory.getbasetemp()
    with server((folder if worker_id == "master" else folder.parent) / "pg", durable=False) as url:
        yield as_superuser(url)


@pytest.fixture
async def sql(
    sql_connection: "Connection[Any]", running_app: FastAPI
) -> AsyncIterator["Connection[Any]"]:
    """A connection to the service's database, which is as it was migrated again afterwards. And the
    app that the tests share knows of no outage, of whose end the next test would be told."""
    yield sql_connection
    await sql_connection.execute(EMPTY)
    resources = resources_of(running_app)
    for opened in (resources.writer, resources.primary, resources.schema.pool):
        opened._outages.causes.clear()
        opened._outages._reminders = Reminders()


@pytest.fixture
async def fail_first(sql: "Connection[Any]") -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Let the first inserts into a table fail: `await fail_first("items", times=2,
    sqlstate="40P01")`. The SQLSTATE is by default 40001, a serialization failure."""

    async def fail(table: str, times: int = 1, sqlstate: str = "40001") -> None:
        await sql.execute(FAIL_FIRST.format(table=table, times=times, sqlstate=sqlstate))

    yield fail
    await sql.execute("DROP FUNCTION IF EXISTS fail_first CASCADE; DROP SEQUENCE IF EXISTS tries")


@pytest.fixture
async def app(running_app: FastAPI, sql: "Connection[Any]") -> FastAPI:
    """The service after its lifespan's startup, with an empty database."""
    return running_app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[Caller]:
    """A client that is not signed in."""
    async with _caller(app) as client:
        yield client


@pytest.fixture
def serve(settings: Settings, create_app: CreateApp, sql: "Connection[Any]") -> Serve:
    """Serve the same database with other settings: `async with serve(env="prod") as client`, and
    with others of slices: `serve(MailSettings(port=1), env="prod")`."""

    @asynccontextmanager
    async def serve(*of_slices: SliceSettings, **changes: Any) -> AsyncIterator[Caller]:
        app = create_app(settings.model_copy(update=changes).having(*of_slices))
        async with app.router.lifespan_context(app), _caller(app) as client:
            yield client

    return serve


@pytest.fixture
def mount(settings: Settings, create_app: CreateApp, sql: "Connection[Any]") -> Mount:
    """Serve a further router, with other settings, to a client that is not signed in:
    `async with mount(router, pool_size=1) as client`."""

    @asynccontextmanager
    async def mount(
        router: APIRouter, *of_slices: SliceSettings, **changes: Any
    ) -> AsyncIterator[Caller]:
        app = create_app(settings.model_copy(update=changes).having(*of_slices))
        app.include_router(router)
        async with app.router.lifespan_context(app), _caller(app) as client:
            yield client

    return mount


@pytest.fixture
def log() -> Iterator[Log]:
    """What the service has logged, as its own formatter writes it in production."""
    handler = Log()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def password() -> str:
    """The password of every account made by `sign_up`."""
    return PASSWORD


@pytest.fixture(scope="session")
async def password_hash() -> str:
    return await PasswordVault().hash(SecretStr(PASSWORD))


@pytest.fixture
def account_columns() -> dict[str, Any]:
    """The values of every test account in columns that a team has added to `users`: its
    `conftest.py` overrides this. A callable gets the account's name, for a unique column."""
    return {}


@pytest.fixture
def sign_in() -> SignIn:
    """How an account signs in: a function, sync or async, that returns the headers of its requests.
    The root's `conftest.py` overrides this."""

    def sign_in(app: FastAPI, user_id: int) -> dict[str, str]:
        pytest.fail(f"account {user_id} cannot sign in: conftest.py needs a fixture sign_in")

    return sign_in


@pytest.fixture
async def sign_up(
    app: FastAPI,
    sql: "Connection[Any]",
    password_hash: str,
    account_columns: dict[str, Any],
    sign_in: SignIn,
) -> AsyncIterator[SignUp]:
    """Insert an account into the database, and return a caller with its token:
    `await sign_up("Carol", "accountant", phone="110")`, with values for further columns."""
    callers: list[Caller] = []

    async def sign_up(name: str, role: str = "member", **columns: Any) -> Caller:
        caller = _caller(app)
        callers.append(caller)
        caller.role, caller.email = role, f"{name.lower().replace(' ', '.')}@example.com"
        further = {
            column: value(name) if callable(value) else value
            for column, value in (account_columns | columns).items()
        }
        account = {"email": caller.email, "full_name": name, "role": role}
        caller.user_id = await _insert(
            sql, "users", account | {"password_hash": password_hash} | further
        )
        caller.headers.update(await settle(sign_in(app, caller.user_id)))
        return caller

    yield sign_up
    for caller in callers:
        await caller.aclose()


@pytest.fixture
async def alice(sign_up: SignUp) -> Caller:
    return await sign_up("Alice")


@pytest.fixture
async def bob(sign_up: SignUp) -> Caller:
    return await sign_up("Bob")


@pytest.fixture
async def admin(sign_up: SignUp) -> Caller:
    return await sign_up("Admin", "admin")


def _caller(app: FastAPI) -> Caller:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    caller = Caller(transport=transport, base_url="http://test")
    caller.app = app
    return caller


async def _insert(sql: "Connection[Any]", table: str, row: dict[str, Any]) -> Any:
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places}) RETURNING id"
    return await sql.fetchval(statement, *row.values())
