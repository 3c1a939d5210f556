"""PgBouncer as Debian has it (1.18), which cannot do prepared statements in transaction mode: what
cannot work is refused, what can works with all limits."""

import asyncio
import time
from contextlib import asynccontextmanager

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from kernel.data.poolers import NO_SESSION
from kernel.data.readers import open_reader
from kernel.data.writer import open_writer
from kernel.tests.faults.pgbouncer import BACKENDS, pooler, program, shipped

pytestmark = pytest.mark.slow

IGNORED = {"ignore_startup_parameters": shipped()[0]["ignore_startup_parameters"]}
SESSIONS = {**IGNORED, "pool_mode": "session", "default_pool_size": "60"}
TRANSACTIONS = {"pool_mode": "transaction", "default_pool_size": f"{BACKENDS}"}
SETTINGS = text(
    "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
    " current_setting('idle_in_transaction_session_timeout'),"
    " current_setting('default_transaction_read_only'), current_setting('timezone')"
)


@asynccontextmanager
async def behind(serve, url, conf, query=""):
    async with (
        pooler(program(), url, conf, query) as way,
        serve(database_url=SecretStr(way), pool_timeout=0.5) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("conf", "query", "said"),
    [
        (TRANSACTIONS, "", "unsupported startup parameter: statement_timeout"),
        (TRANSACTIONS | IGNORED, "", NO_SESSION.split(" (")[0]),
        # With all limits, its writes would seem to work.
        (TRANSACTIONS | IGNORED, shipped()[1], NO_SESSION.split(" (")[0]),
        (TRANSACTIONS | IGNORED | {"default_pool_size": "1"}, "", NO_SESSION.split(" (")[0]),
        (
            TRANSACTIONS | IGNORED | {"server_round_robin": "1"},
            shipped()[1],
            NO_SESSION.split(" (")[0],
        ),
    ],
)
async def test_a_pooler_that_gives_no_session_is_refused_in_one_line_for_each_pool(
    serve, alice, database_url, log, conf, query, said
):
    async with behind(serve, database_url, conf, query) as client:
        client.headers.update(alice.headers)
        answers = [await client.get("/readyz") for _ in range(3)]
        answers += await asyncio.gather(*(client.get("/peelings") for _ in range(20)))
        stew = {"json": {"title": "Stew"}}
        answers += await asyncio.gather(*(client.post("/peelings", **stew) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {503}
    lines = log.lines("WARNING", "ERROR")
    assert {line["pool"] for line in lines} == {"probe", "reader"}
    assert len(lines) == 2
    for line in lines:
        assert said in line["error"]
        assert line["error"].endswith("see docs/production.md#pgbouncer")


async def test_in_session_mode_all_that_was_dropped_is_set_and_stays(settings, database_url, alice):
    async with (
        pooler(program(), database_url, SESSIONS) as way,
        open_reader(way, settings, "x") as reader,
        open_writer(way, settings, "x") as writer,
    ):
        for _ in range(3):
            [row] = await reader.fetch(SETTINGS)
            assert [*row.values()] == ["5s", "1s", "10s", "on", "UTC"]
            # Whatever somebody sets is taken back, and not to the server's own.
            await reader.fetch(text("SELECT set_config('statement_timeout', '1', false)"))
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await reader.fetch(text("DELETE FROM peelings"))
        unit = writer.unit_of_work()
        raw = await unit.begin()
        [row] = await raw.run(SETTINGS.text)
        assert [*row.values()] == ["5s", "1s", "10s", "off", "UTC"]
        await unit.rollback()
        raw.terminate()


async def test_in_session_mode_a_request_waits_for_a_lock_for_so_long(
    serve, alice, database_url, log
):
    direct = await asyncpg.connect(database_url)
    async with behind(serve, database_url, SESSIONS) as client:
        client.headers.update(alice.headers)
        assert (await client.get("/readyz")).status_code == 200
        made = [(await client.post("/peelings", json={"title": "Soup"})).json() for _ in range(9)]
        async with direct.transaction():
            await direct.execute("SELECT FROM peelings WHERE id = $1 FOR UPDATE", made[0]["id"])
            began = time.monotonic()
            answer = await client.patch(f"/peelings/{made[0]['id']}", json={"title": "x"})
            waited = time.monotonic() - began
    await direct.close()
    assert answer.status_code == 409
    assert 2.5 < waited < 5
    assert log.lines("ERROR") == []
