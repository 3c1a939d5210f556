"""A write whose connection to the database breaks: what it answers, and what is stored."""

import asyncio

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from features.auth.handlers.access import TokenSigner
from kernel.data.independent import open_session
from kernel.data.schema import upgrade_schema
from kernel.dev.embedded import as_superuser, server
from kernel.http.problems import Problem
from kernel.settings import Settings
from kernel.testing.callers import Caller
from kernel.testing.operations import writes
from kernel.testing.sampler import Sampler
from kernel.tests.app import NAME, create_app
from kernel.tests.faults.proxy import Fault, Proxy
from kernel.tests.processes import until

pytestmark = pytest.mark.slow

WRITES = writes(create_app(Settings(_env_file=None)))
ROUNDS = 20
# Attempts to sign in are counted even if the request fails.
TABLES = """
    SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'sign_in_attempts'
"""
SIGN_IN = """
    INSERT INTO refresh_tokens (user_id, family, digest, expires_at)
    VALUES (1, gen_random_uuid(), '', now() + interval '1 day') RETURNING family
"""
IN_TRANSACTION = f"""
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name LIKE '{NAME} %' AND datname = current_database()
    AND state LIKE 'idle in transaction%'
"""

every_write = pytest.mark.parametrize("write", WRITES, ids=str)
KEYED = [write for write in WRITES if write.takes_key]  # of no one, there is no key
every_keyed_write = pytest.mark.parametrize("write", KEYED, ids=str)
every_cut = pytest.mark.parametrize("cut", [Fault.CUT_BEFORE, Fault.CUT_AFTER], ids=str)


@pytest.fixture(scope="module")
async def way(database_url):
    async with Proxy(database_url) as way:
        yield way


@pytest.fixture(scope="module")
async def served(settings, way):
    """The service behind the proxy, with so few connections that it cannot spare one."""
    limits = {"pool_size": 2, "pool_timeout": 20.0, "max_overflow": 0, "read_pool_size": 1}
    changes = {"database_url": SecretStr(way.url), **limits}
    app = create_app(settings.model_copy(update=changes))
    async with app.router.lifespan_context(app):
        # SQLAlchemy asks its first connection about the server; cut off there, none could be made.
        async with open_session(app) as session:
            await session.exec(text("SELECT 1"))
        yield app


@pytest.fixture
async def sampler(served, way, sign_up):
    admin = await sign_up("Sampler", "admin")
    transport = httpx.ASGITransport(served, raise_app_exceptions=False)
    async with Caller(transport=transport, base_url="http://test", headers=admin.headers) as caller:
        caller.app, caller.user_id, caller.email = served, admin.user_id, admin.email
        yield Sampler(served, caller)


@pytest.fixture(autouse=True)
async def no_connection_leaks(served, way, sampler, sql):
    """After whatever a test has broken, the service reads and writes, and holds nothing."""

    async def nobody_is_in_a_transaction():
        return await sql.fetchval(IN_TRANSACTION) == 0

    yield
    way.disarm()
    assert (await sampler.caller.get("/peelings")).status_code == 200
    assert (await sampler.caller.post("/peelings", json={"title": "after"})).status_code == 201
    await until(nobody_is_in_a_transaction, 2)
    assert served.state.resources.writer.in_use() == 0


@pytest.fixture
def rows(sql):
    """The rows of all tables, to compare."""

    async def rows():
        names = [row[0] for row in await sql.fetch(TABLES)]
        return {name: await sql.fetch(f"SELECT * FROM {name} ORDER BY 1") for name in names}

    return rows


@pytest.fixture
def prepare(sampler, way):
    """A valid request, and how much it commits aside before its own work, like a count."""

    async def prepare(write):
        url, body = await sampler.url(write), await sampler.body(write)
        commits = way.commits
        assert (await sampler.call(write, url, body)).is_success
        aside = way.commits - commits - 1
        return await sampler.url(write), await sampler.body(write), aside

    return prepare


def is_told_as_unknown(answer):
    """A 503 without Retry-After, which would invite to do the work twice."""
    problem = Problem.model_validate_json(answer.content)
    return (
        answer.status_code == problem.status == 503
        and answer.headers["content-type"] == "application/problem+json"
        and "retry-after" not in answer.headers
    )


def is_replay(answer, write):
    if write.answers_with_a_secret:
        return answer.status_code == 409
    return answer.is_success and answer.headers.get("idempotent-replayed") == "true"


@every_write
async def test_a_write_whose_commit_never_arrived_is_no_success(sampler, prepare, way, rows, write):
    url, body, aside = await prepare(write)
    before = await rows()
    way.arm(Fault.CUT_BEFORE, skip=aside)
    assert is_told_as_unknown(await sampler.call(write, url, body))
    assert await rows() == before


@every_write
async def test_a_write_whose_commit_was_not_answered_is_no_success(
    sampler, prepare, way, rows, write
):
    url, body, aside = await prepare(write)
    before = await rows()
    way.arm(Fault.CUT_AFTER, skip=aside)
    assert is_told_as_unknown(await sampler.call(write, url, body))
    assert await rows() != before


@every_keyed_write
async def test_with_a_key_a_commit_that_never_arrived_is_done_after_all(
    sampler, prepare, way, rows, write
):
    url, body, aside = await prepare(write)
    before = await rows()
    way.arm(Fault.CUT_BEFORE, skip=aside)
    done = await sampler.call(write, url, body, Idempotency_Key="a-key")
    assert way.struck.is_set()
    assert done.is_success
    assert "idempotent-replayed" not in done.headers
    after = await rows()
    assert after != before
    assert is_replay(await sampler.call(write, url, body, Idempotency_Key="a-key"), write)
    assert await rows() == after


@every_keyed_write
async def test_with_a_key_a_commit_that_was_not_answered_is_not_done_again(
    sampler, prepare, way, rows, write
):
    url, body, aside = await prepare(write)
    before = await rows()
    way.arm(Fault.CUT_AFTER, skip=aside)
    assert is_replay(await sampler.call(write, url, body, Idempotency_Key="a-key"), write)
    assert way.struck.is_set()
    after = await rows()
    assert after != before
    assert is_replay(await sampler.call(write, url, body, Idempotency_Key="a-key"), write)
    assert await rows() == after


@every_cut
async def test_twenty_cuts_at_commit_lose_nothing_and_double_nothing(sampler, way, sql, cut):
    stored = "SELECT count(*) FROM peelings WHERE title = $1"
    for round_ in range(ROUNDS):
        unkeyed, keyed = {"title": f"unkeyed {round_}"}, {"title": f"keyed {round_}"}
        key = {"Idempotency-Key": f"key-{round_}"}
        way.arm(cut)
        assert is_told_as_unknown(await sampler.caller.post("/peelings", json=unkeyed))
        assert await sql.fetchval(stored, unkeyed["title"]) == (cut is Fault.CUT_AFTER)
        way.arm(cut)
        done = await sampler.caller.post("/peelings", json=keyed, headers=key)
        assert done.status_code == 201
        assert ("idempotent-replayed" in done.headers) == (cut is Fault.CUT_AFTER)
        assert await sql.fetchval(stored, keyed["title"]) == 1


@pytest.fixture(params=[{"statement_timeout": 0.1}, {"request_timeout": 1.0}], ids=str)
async def impatient(settings, way, sampler, request):
    """The service as it is, but for how long it waits for an answer: about a second."""
    changes = {"database_url": SecretStr(way.url), **request.param}
    app = create_app(settings.model_copy(update=changes))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        Caller(transport=transport, base_url="http://test") as caller,
    ):
        caller.headers.update(sampler.caller.headers)
        yield caller


async def test_a_commit_that_is_not_answered_in_time_is_told_as_unknown(impatient, way, sql):
    stored = "SELECT count(*) FROM peelings WHERE title = $1"
    for round_ in range(5):
        unkeyed, keyed = {"title": f"unkeyed {round_}"}, {"title": f"keyed {round_}"}
        key = {"Idempotency-Key": f"key-{round_}"}
        way.arm(Fault.HOLD)
        assert is_told_as_unknown(await impatient.post("/peelings", json=unkeyed))
        assert await sql.fetchval(stored, unkeyed["title"]) == 1
        way.arm(Fault.HOLD)
        late = await impatient.post("/peelings", json=keyed, headers=key)
        # With a key, whoever obeys makes one row.
        assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        assert late.json()["reason"] == "slow"
        done = await impatient.post("/peelings", json=keyed, headers=key)
        assert (done.status_code, done.headers["idempotent-replayed"]) == (201, "true")
        assert await sql.fetchval(stored, keyed["title"]) == 1


async def test_a_commit_that_waits_for_a_standby_is_told_as_unknown(settings, tmp_path):
    """With `synchronous_standby_names` and no standby, a COMMIT is done here and never answered."""
    with server(tmp_path / "pg") as url:
        await upgrade_schema(url)
        connection = await asyncpg.connect(as_superuser(url))
        await connection.execute(
            "INSERT INTO users (email, full_name, password_hash) VALUES ('a@b.cd', 'A', '')"
        )
        sign_in = await connection.fetchval(SIGN_IN)
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await connection.execute("SELECT pg_reload_conf()")
        changes = {"database_url": SecretStr(url), "statement_timeout": 0.1}
        app = create_app(settings.model_copy(update=changes))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            token = app.state.resources.get(TokenSigner).issue(1, sign_in)
            client.headers["Authorization"] = f"Bearer {token}"
            answer = await client.post("/keys", json={"name": "unknown"})
            assert is_told_as_unknown(answer)
        await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await connection.execute("SELECT pg_reload_conf()")
        await until(lambda: _has_one_key(connection), 5)
        await connection.close()


async def _has_one_key(connection):
    return await connection.fetchval("SELECT count(*) FROM api_keys") == 1


@every_cut
async def test_a_cut_at_commit_harms_no_neighbour(sampler, way, sql, cut):
    titles = [f"neighbour {number}" for number in range(ROUNDS)]
    way.arm(cut)
    answers = await asyncio.gather(
        *[sampler.caller.post("/peelings", json={"title": title}) for title in titles]
    )
    failed = [answer for answer in answers if answer.status_code != 201]
    assert len(failed) == 1, [answer.text[:120] for answer in failed]
    assert is_told_as_unknown(failed[0])
    assert await sql.fetchval("SELECT count(*) FROM peelings") == ROUNDS - (cut is Fault.CUT_BEFORE)


@every_write
async def test_a_cut_before_commit_is_not_noticed(sampler, way, rows, write):
    url, body = await sampler.url(write), await sampler.body(write)
    before = await rows()
    way.arm(Fault.CUT_BEFORE, moment=1)
    answer = await sampler.call(write, url, body, Idempotency_Key="a-key")
    assert way.struck.is_set()
    assert answer.is_success
    assert "idempotent-replayed" not in answer.headers
    assert await rows() != before


async def test_a_cut_at_any_moment_before_commit_is_not_noticed(sampler, way, sql):
    for moment in range(100):
        way.arm(Fault.CUT_BEFORE, moment)
        key = {"Idempotency-Key": f"key-{moment}"}
        answer = await sampler.caller.post("/peelings", json={"title": "Soup"}, headers=key)
        assert answer.status_code == 201
        assert "idempotent-replayed" not in answer.headers
        assert await sql.fetchval("SELECT count(*) FROM peelings") == moment + 1
        if not way.struck.is_set():
            break
    # BEGIN, the key, the row, the key's answer; who calls has been looked up before.
    assert 4 <= moment < 99
