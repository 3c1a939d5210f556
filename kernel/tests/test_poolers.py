"""A connection has what it asked for, whatever stands between it and the server."""

import asyncio
import os
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from kernel.data import poolers, shared_sessions
from kernel.data.connections import connect
from kernel.data.driver import Connection
from kernel.data.outages import Outages
from kernel.data.poolers import UnfitConnection, verify
from kernel.data.readers import open_reader
from kernel.data.traces import needs_session
from kernel.tests.app import NAME
from kernel.tests.processes import _pump

KEY = {"X-API-Key": "a" * 40}
NAMES = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database()"
SETTINGS = (
    *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"),
    "default_transaction_read_only",
)


@asynccontextmanager
async def way_without(parameter, url):
    """A proxy that drops a startup parameter; its URL."""
    parts = urlsplit(url)
    path = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
    pipes = []

    async def forward(client, back):
        head = await client.readexactly(4)
        body = await client.readexactly(int.from_bytes(head) - 4)
        version, words = body[:4], body[4:].rstrip(b"\0").split(b"\0")
        kept = [
            part
            for name, value in zip(words[::2], words[1::2], strict=True)
            if name != parameter.encode()
            for part in (name, value)
        ]
        body = version + b"\0".join(kept) + b"\0\0"
        server, forth = await asyncio.open_unix_connection(path)
        forth.write((len(body) + 4).to_bytes(4) + body)
        pipes.extend(
            asyncio.create_task(_pump(reader, writer))
            for reader, writer in ((client, forth), (server, back))
        )

    listening = await asyncio.start_server(forward, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://app@127.0.0.1:{port}{parts.path}?sslmode=disable"
    finally:
        listening.close()
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)


@pytest.mark.parametrize("parameter", SETTINGS)
async def test_a_dropped_parameter_is_named_in_one_line_for_each_pool(
    serve, database_url, log, parameter
):
    async with (
        way_without(parameter, database_url) as way,
        serve(database_url=SecretStr(way), pool_timeout=0.3) as client,
    ):
        answers = [await client.get("/users/me", headers=KEY) for _ in range(4)]
        answers += [await client.get("/readyz") for _ in range(4)]
    assert {answer.status_code for answer in answers} == {503}
    lines = log.lines("WARNING", "ERROR")
    assert sorted(line["pool"] for line in lines) == ["probe", "reader"]
    for line in lines:
        assert f" {parameter}=" in line["error"]
        assert "docs/production.md#pgbouncer" in line["error"]
        assert not [name for name in SETTINGS if name != parameter and f" {name}=" in line["error"]]


async def test_a_dropped_time_zone_is_named_too(serve, database_url, sql, log):
    database = urlsplit(database_url).path[1:]
    await sql.execute(f"ALTER DATABASE {database} SET timezone = 'Asia/Tokyo'")
    try:
        async with (
            way_without("timezone", database_url) as way,
            serve(database_url=SecretStr(way)) as client,
        ):
            assert (await client.get("/readyz")).status_code == 503
    finally:
        await sql.execute(f"ALTER DATABASE {database} RESET timezone")
    assert "timezone=UTC" in log.lines("WARNING")[0]["error"]


async def test_connections_tell_their_pool_and_their_process(app, alice, sql):
    await alice.post("/peelings", json={"title": "Soup"})
    await alice.get("/readyz")
    names = {name for (name,) in await sql.fetch(NAMES)}
    assert {f"{NAME} {pool} {os.getpid()}" for pool in ("writer", "reader", "probe")} <= names


async def test_of_a_long_name_the_process_id_is_kept(settings, database_url):
    connection = await connect(database_url, settings, Outages("writer", ""), name="x" * 100)
    name = await connection.fetchval("SHOW application_name")
    await connection.close()
    assert len(name) == 63
    assert name.endswith(f"x {os.getpid()}")


@pytest.mark.parametrize(
    ("setting", "milliseconds"),
    [("500ms", "500"), ("5s", "5000"), ("2min", "120000"), ("1h", "3600000"), ("0", "0")],
)
async def test_the_server_tells_durations_in_its_own_units(sql, setting, milliseconds):
    await sql.execute(f"SET statement_timeout = {milliseconds}")
    told = await sql.fetchval("SHOW statement_timeout")
    await sql.execute("RESET statement_timeout")
    assert (told, poolers._plain(told)) == (setting, milliseconds)


class Pooled(Connection):
    """A connection whose process id is a pooler's, and which may get another session for each
    statement; PgBouncer itself is met in the slow tests."""

    def get_server_pid(self):
        return -1


@asynccontextmanager
async def pooled(url):
    connection = await asyncpg.connect(url, connection_class=Pooled)
    try:
        yield connection
    finally:
        await connection.close()


async def test_what_a_pooler_with_sessions_has_dropped_is_set_and_outlives_a_reset(database_url):
    poolers._sessions.clear()
    asked = {"application_name": "x", "timezone": "UTC", "lock_timeout": "1234"}

    async def open_():
        return await asyncpg.connect(database_url, connection_class=Pooled)

    async with pooled(database_url) as connection:
        await verify(connection, asked, open_, database_url)
        for _ in range(2):
            assert await connection.run("SHOW lock_timeout") == [("1234ms",)]
            await connection.run("SET lock_timeout = 1")
            await connection.clean()
        assert not connection.is_shared
    assert poolers._sessions


async def test_a_pooler_whose_connections_share_a_session_is_refused(database_url):
    poolers._sessions.clear()
    async with pooled(database_url) as connection:

        async def open_():
            return connection

        with pytest.raises(UnfitConnection, match="another session and keeps no prepared"):
            await verify(connection, {}, open_, database_url)


@pytest.mark.parametrize(
    "sql",
    [
        "SET statement_timeout = 1",
        "set session characteristics as transaction read only",
        "SELECT 1; SET a.b = '1'",
        "LISTEN somebody",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1, 2)",
        "SELECT set_config('a.b', '1', false)",
        "SELECT set_config($1, $2, $3)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "CREATE TEMP TABLE t (id int)",
        "CREATE TEMPORARY SEQUENCE s",
        "CREATE LOCAL TEMP TABLE t (id int)",
        "SELECT 1 AS n INTO TEMPORARY t",
        "PREPARE p AS SELECT 1",
        "DEALLOCATE ALL",
        "DISCARD PLANS",
        "LOAD 'auto_explain'",
        "-- a comment\nSET x.y = 1",
    ],
)
async def test_what_needs_a_session_is_refused_where_there_is_none(database_url, sql):
    async with pooled(database_url) as connection:
        connection.share()
        with pytest.raises(RuntimeError, match="a pooler gives each transaction another session"):
            await connection.run(sql)
        assert await connection.run("SELECT 1 AS one") == [(1,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL statement_timeout = '1s'",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SET TRANSACTION READ ONLY",
        "SELECT pg_advisory_xact_lock($1)",
        "SELECT set_config('a.b', '1', true)",
        "UPDATE t SET a = 1",
        "SELECT 'SET x; SET y', $$;LISTEN$$",
        "INSERT INTO temperatures VALUES (1)",
        "INSERT INTO temp VALUES (1)",
        "CREATE TABLE t (id int)",
        "SELECT my_function(1)",
    ],
)
def test_what_is_for_a_transaction_needs_no_session(sql):
    assert not needs_session(sql)


async def test_nothing_is_reset_where_another_session_would_be(database_url):
    """RESET ALL would take away the limits of a session that somebody else has next."""
    async with pooled(database_url) as connection:
        connection.share()
        async with connection.transaction():
            await connection.run("SET LOCAL a.b = '1'")
        await connection.run("SELECT version()")
        assert connection.has_traces
        await connection.clean()
        assert not connection.has_traces


async def test_behind_a_pooler_each_search_has_a_text_of_its_own(database_url):
    """PgBouncer keeps a text prepared when its client has closed it, and with it the plan."""
    search = "SELECT id FROM peelings WHERE title ILIKE $1"
    async with pooled(database_url) as connection:
        assert connection.text_of(search) == search
        connection.share()
        texts = {(await connection.prepare(search)).get_query() for _ in range(9)}
        assert len(texts) == 9
        assert connection.text_of("SELECT 1") == "SELECT 1"
        assert await connection.run(search, "soup%") == []


async def test_behind_a_pooler_a_migration_has_all_statements_prepared_anew(
    database_url, monkeypatch
):
    monkeypatch.setattr(shared_sessions, "_suffix", "")
    async with pooled(database_url) as connection:
        connection.share()
        await connection.transaction().start()  # which ends with the connection
        await connection.execute("CREATE TABLE loaves (id int)")
        await connection.run("SELECT * FROM loaves")
        await connection.execute("ALTER TABLE loaves ALTER id TYPE bigint")
        with pytest.raises(asyncpg.InvalidCachedStatementError):
            await connection.run("SELECT * FROM loaves")
        told = connection.text_of("SELECT 1")
        assert told == connection.text_of("SELECT 1") != "SELECT 1"
        connection.is_shared = False
        assert connection.text_of("SELECT 1") == "SELECT 1"


async def test_a_pool_takes_none_of_the_last_places(settings, database_url, monkeypatch):
    monkeypatch.setattr(poolers, "LAST_PLACES", 1_000_000)
    patient = settings.model_copy(update={"pool_timeout": 10})
    async with open_reader(database_url, patient, NAME) as reader:
        sleep = text("SELECT pg_sleep(0.02)")
        await asyncio.gather(*(reader.fetch(sleep) for _ in range(10)))
        assert reader._connections._openings.live == 2
