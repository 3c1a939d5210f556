"""What every write has, walked over every write of the app: a mounted slice is a covered slice."""

import asyncio
import re

import pytest

from kernel.settings import Settings
from kernel.testing.operations import Sampler, writes
from kernel.tests.app import create_app

WRITES = writes(create_app(Settings(_env_file=None)))
CHANGES = [each for each in WRITES if each.method != "POST"]
# Keys are compared where they matter; attempts to sign in are counted even if the request fails.
TABLES = """
    SELECT tablename FROM pg_tables WHERE schemaname = 'public'
    AND tablename NOT IN ('idempotency_keys', 'sign_in_attempts')
"""
REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'refused at COMMIT' USING ERRCODE = '23503'; END $$
"""

# None of them is 1 to 255 visible characters, bare or quoted.
KEYS = ["", " ", '""', '"', "x" * 256, f'"{"x" * 256}"', "a b", "\u00fc", "a\x7f", '"a"b"', '"a']

every_write = pytest.mark.parametrize("write", WRITES, ids=str)
every_change = pytest.mark.parametrize("write", CHANGES, ids=str)


@pytest.fixture
async def sampler(app, sign_up):
    return Sampler(app, await sign_up("Sampler", "admin"))


@pytest.fixture
def rows(sql):
    """The rows of all tables, to compare."""

    async def rows():
        names = [row[0] for row in await sql.fetch(TABLES)]
        return {name: await sql.fetch(f"SELECT * FROM {name} ORDER BY 1") for name in names}

    return rows


@pytest.fixture
async def refuse_at_commit(sql):
    """Make every change of any row fail, but not before COMMIT."""
    tables = [row[0] for row in await sql.fetch(TABLES)]

    async def refuse():
        await sql.execute(REFUSE)
        for table in tables:
            await sql.execute(
                f"CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE OR DELETE ON {table}"
                " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
            )

    yield refuse
    await sql.execute("DROP FUNCTION IF EXISTS refuse() CASCADE")


@every_write
async def test_a_valid_request_succeeds(sampler, write):
    assert (await sampler.call(write)).is_success


@every_write
async def test_a_refusal_at_commit_is_no_success(sampler, rows, refuse_at_commit, write):
    url, body = await sampler.url(write), await sampler.body(write)
    await refuse_at_commit()
    before = await rows()
    answer = await sampler.call(write, url, body)
    assert await rows() == before
    assert answer.status_code == 409


@every_write
async def test_a_repeated_key_is_answered_again_byte_for_byte_and_done_once(sampler, rows, write):
    url, body = await sampler.url(write), await sampler.body(write)
    first = await sampler.call(write, url, body, Idempotency_Key="a-key")
    after = await rows()
    again = await sampler.call(write, url, body, Idempotency_Key='"a-key"')
    assert first.is_success
    assert "idempotent-replayed" not in first.headers
    assert await rows() == after
    if write.answers_with_a_secret:
        assert again.status_code == 409
    else:
        assert again.headers["idempotent-replayed"] == "true"
        assert (again.status_code, again.content) == (first.status_code, first.content)
        own = {"x-request-id", "server-timing", "idempotent-replayed"}
        assert without(again.headers, own) == without(first.headers, own)


def without(headers, names):
    return {name: value for name, value in headers.items() if name not in names}


@every_write
async def test_a_key_belongs_to_its_caller_method_path_and_body(sampler, sign_up, app, write):
    url, body = await sampler.url(write), await sampler.body(write)
    first = await sampler.call(write, url, body, Idempotency_Key="a-key")
    assert first.is_success
    other_query = await sampler.call(write, f"{url}?x=1", body, Idempotency_Key="a-key")
    assert other_query.status_code == 422
    assert "Idempotency-Key" in other_query.json()["message"]
    if write.body:
        changed = dict.fromkeys(body, None)
        other_body = await sampler.call(write, url, changed, Idempotency_Key="a-key")
        assert other_body.status_code == 422
        assert "errors" not in other_body.json()
    another = Sampler(app, await sign_up("Another", "admin"))
    theirs = await another.call(write, await another.url(write), Idempotency_Key="a-key")
    assert "idempotent-replayed" not in theirs.headers


@pytest.mark.parametrize("write", [w for w in WRITES if w.body or w.parameters("path")], ids=str)
async def test_a_failure_is_not_kept(sampler, sql, write):
    url = await sampler.url(write)
    failing = url if write.body else re.sub(r"(\d+)(?!.*\d)", r"\1x", url)  # which is no id
    failure = await sampler.call(write, failing, {"unknown": "x"}, Idempotency_Key="a-key")
    assert failure.status_code == 422
    assert await sql.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    assert (await sampler.call(write, url, Idempotency_Key="a-key")).is_success


@every_write
async def test_a_key_that_is_not_visible_characters_is_refused(sampler, write):
    url, body = await sampler.url(write), await sampler.body(write)
    content = write.content(body)
    for key in KEYS:
        headers = [(b"Idempotency-Key", key.encode("latin-1"))]
        answer = await sampler.caller.request(write.method, url, headers=headers, **content)
        assert (answer.status_code, answer.json()["error"]) == (400, "bad_request"), key


@every_write
async def test_a_dry_run_answers_as_if_and_changes_nothing(sampler, rows, sql, write):
    url, body = await sampler.url(write), await sampler.body(write)
    before = await rows()
    rehearsal = await sampler.call(
        write, url, body, Prefer="return=minimal, TX=rollback", Idempotency_Key="a-key"
    )
    assert rehearsal.is_success
    assert rehearsal.headers["preference-applied"] == "tx=rollback"
    assert await rows() == before
    assert await sql.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    real = await sampler.call(write, url, body, Prefer="return=minimal", Idempotency_Key="a-key")
    assert real.status_code == rehearsal.status_code
    assert "preference-applied" not in real.headers
    another = await sampler.call(write, url, body, Prefer="tx=rollback", Idempotency_Key="a-key")
    assert "idempotent-replayed" not in another.headers


@every_write
async def test_a_dry_run_checks_what_commit_would_check(sampler, refuse_at_commit, write):
    url, body = await sampler.url(write), await sampler.body(write)
    await refuse_at_commit()
    answer = await sampler.call(write, url, body, Prefer="tx=rollback")
    assert answer.status_code == 409


@every_change
async def test_a_stale_tag_changes_nothing(sampler, rows, write):
    url, body = await sampler.url(write), await sampler.body(write)
    before = await rows()
    for tags in ('"0"', '"0", "99"', 'W/"1"', "1", "", '"1'):
        answer = await sampler.call(write, url, body, If_Match=tags)
        assert (answer.status_code, answer.json()["error"]) == (412, "precondition_failed")
    assert await rows() == before


@every_change
@pytest.mark.parametrize("tags", ['"1"', '"0", "1"', "*", 'W/"0","1"'])
async def test_a_matching_tag_lets_the_change_through(sampler, write, tags):
    assert (await sampler.call(write, If_Match=tags)).is_success


@every_change
async def test_of_many_changes_of_one_version_exactly_one_wins(sampler, write):
    url = await sampler.url(write)
    bodies = [await sampler.body(write) for _ in range(16)]
    answers = await asyncio.gather(
        *[sampler.call(write, url, body, If_Match='"1"') for body in bodies]
    )
    statuses = sorted(answer.status_code for answer in answers)
    lost = {404, 412} if write.method == "DELETE" else {412}
    assert statuses[0] in (200, 204)
    assert set(statuses[1:]) <= lost
