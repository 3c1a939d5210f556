"""What happens to a unit of work when others, or the database, get in its way."""

import asyncio
import time

import asyncpg
import pytest
import time_machine

from features.auth.handlers.access import TokenSigner
from kernel.http import router as boundary

SOUP = {"title": "Soup"}


def keyed(key="a-key"):
    return {"Idempotency-Key": key}


async def count(sql, table="peelings"):
    return await sql.fetchval(f"SELECT count(*) FROM {table}")


@pytest.fixture
async def other(database_url):
    """A second connection, for somebody who is in the way."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_twins_in_flight_wait_for_each_other_and_give_one_answer(alice, sql):
    for round_ in range(20):
        answers = await asyncio.gather(
            *[alice.post("/peelings", json=SOUP, headers=keyed(f"key-{round_}")) for _ in range(10)]
        )
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        replayed = [answer for answer in answers if "idempotent-replayed" in answer.headers]
        assert len(replayed) == 9
    assert await count(sql) == 20


async def test_a_twin_that_waits_too_long_is_told_to_come_back(alice, sql, other):
    answer = await alice.post("/peelings", json=SOUP, headers=keyed())
    digest = await sql.fetchval("SELECT digest FROM idempotency_keys")
    async with other.transaction():
        await other.execute("UPDATE idempotency_keys SET status = 0 WHERE digest = $1", digest)
        waited = await alice.post("/peelings", json=SOUP, headers=keyed())
    assert (answer.status_code, waited.status_code) == (201, 409)
    assert int(waited.headers["retry-after"]) >= 1
    assert await count(sql) == 1


async def test_a_key_means_another_thing_from_another_caller(alice, bob, client, sql):
    for caller in (alice, bob):
        answer = await caller.post("/peelings", json=SOUP, headers=keyed())
        assert answer.json()["owner_id"] == caller.user_id
    assert (await client.post("/peelings", json=SOUP, headers=keyed())).status_code == 401
    assert await count(sql) == 2


async def test_a_key_outlives_the_token_that_it_came_with(app, alice, sql):
    await alice.post("/peelings", json=SOUP, headers=keyed())
    with time_machine.travel(time.time() + 60):
        named = await sql.fetchval("SELECT family FROM refresh_tokens")
        fresh = app.state.resources.get(TokenSigner).issue(alice.user_id, named)
        alice.headers["Authorization"] = f"Bearer {fresh}"
        again = await alice.post("/peelings", json=SOUP, headers=keyed())
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_deactivated_account_gets_no_replay(alice, admin):
    await alice.post("/peelings", json=SOUP, headers=keyed())
    await admin.patch(f"/users/{alice.user_id}", json={"is_active": False})
    assert (await alice.post("/peelings", json=SOUP, headers=keyed())).status_code == 401


async def test_two_keys_on_one_request_are_refused(alice):
    headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    assert (await alice.post("/peelings", json=SOUP, headers=headers)).status_code == 400


async def test_the_longest_key_is_fine_and_quotes_are_not_part_of_it(alice, sql):
    for key in ("x" * 255, f'"{"x" * 255}"'):
        assert (await alice.post("/peelings", json=SOUP, headers=keyed(key))).status_code == 201
    assert await count(sql) == 1


async def test_a_key_is_new_again_after_its_time(alice, sql):
    await alice.post("/peelings", json=SOUP, headers=keyed())
    await sql.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    again = await alice.post("/peelings", json={"title": "Stew"}, headers=keyed())
    assert again.status_code == 201
    assert "idempotent-replayed" not in again.headers
    third = await alice.post("/peelings", json={"title": "Stew"}, headers=keyed())
    assert third.content == again.content


async def test_old_keys_are_swept_while_new_ones_come(alice, sql):
    await sql.execute("""
        INSERT INTO idempotency_keys (digest, fingerprint, created_at)
        SELECT decode(lpad(to_hex(n), 64, '0'), 'hex'), '', now() - interval '25 hours'
        FROM generate_series(1, 500) n
    """)
    for batch in range(100):
        keys = [keyed(f"{batch}-{number}") for number in range(16)]
        await asyncio.gather(*[alice.post("/peelings", json=SOUP, headers=key) for key in keys])
        if await count(sql, "idempotency_keys") <= 16 * (batch + 1):
            break
    old = "idempotency_keys WHERE created_at < now() - interval '24 hours'"
    assert await count(sql, old) == 0
    assert await count(sql, "idempotency_keys") == await count(sql) > 0


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
async def test_contention_is_tried_again_and_then_told(alice, sql, fail_first, sqlstate):
    await fail_first(times=boundary.RETRIES + 2, sqlstate=sqlstate)
    refused = await alice.post("/peelings", json=SOUP, headers=keyed())
    assert (refused.status_code, await count(sql)) == (409, 0)
    assert int(refused.headers["retry-after"]) >= 1
    done = await alice.post("/peelings", json=SOUP, headers=keyed())
    assert (done.status_code, await count(sql)) == (201, 1)


async def test_a_refusal_for_good_is_not_tried_again(alice, sql, fail_first):
    await fail_first(sqlstate="23514")
    assert (await alice.post("/peelings", json=SOUP)).status_code == 422
    assert await sql.fetchval("SELECT last_value FROM tries") == 1


async def test_a_deadlock_is_retried_and_fails_no_request(alice, sql, other):
    for title in ("one", "two"):
        await alice.post("/peelings", json={"title": title})
    for _ in range(5):
        await sql.execute("SET deadlock_timeout = '10ms'")
        async with other.transaction():
            await other.execute("SET LOCAL deadlock_timeout = '10s'")
            await other.execute("UPDATE peelings SET title = 'theirs' WHERE id = 1")
            patch = asyncio.create_task(alice.patch("/peelings/1", json={"description": "mine"}))
            await asyncio.sleep(0)
        assert (await patch).status_code in (200, 409)


async def test_a_migration_in_between_fails_no_request(app, alice, sql):
    await alice.post("/peelings", json=SOUP)
    for path in ("/peelings/1", "/peelings"):
        await alice.get(path)
    await alice.patch("/peelings/1", json={"title": "a"})
    try:
        await sql.execute("ALTER TABLE peelings ALTER COLUMN title TYPE varchar(300)")
        for number in range(4):
            assert (await alice.get("/peelings/1")).status_code == 200
            assert (await alice.get("/peelings")).status_code == 200
            answer = await alice.patch("/peelings/1", json={"title": f"b{number}"})
            assert answer.status_code == 200
            assert (await alice.post("/peelings", json=SOUP)).status_code == 201
    finally:
        await sql.execute("ALTER TABLE peelings ALTER COLUMN title TYPE varchar(200)")
        app.state.resources.writer.expire()  # who commits for himself would meet the change


async def test_a_hundred_increments_with_if_match_lose_none(alice, sql):
    await alice.post("/peelings", json={"title": "0"})

    async def increment():
        while True:
            read = await alice.get("/peelings/1")
            body = {"title": str(int(read.json()["title"]) + 1)}
            headers = {"If-Match": read.headers["etag"]}
            answer = await alice.patch("/peelings/1", json=body, headers=headers)
            if answer.status_code == 200:
                return
            assert answer.status_code == 412

    async def ten():
        for _ in range(10):
            await increment()

    await asyncio.gather(*[ten() for _ in range(10)])
    peeling = (await alice.get("/peelings/1")).json()
    assert (peeling["title"], peeling["version"]) == ("100", 101)


async def test_a_get_with_the_current_tag_is_not_modified(alice):
    created = await alice.post("/peelings", json=SOUP)
    tag = created.headers["etag"]
    assert tag.startswith('"1-')
    read = await alice.get("/peelings/1")
    assert read.headers["etag"] == tag
    for tags in (tag, f"W/{tag}", f'"0", {tag}', "*"):
        answer = await alice.get("/peelings/1", headers={"If-None-Match": tags})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    for tags in ('"2"', '"1"', "1", tag.strip('"'), ""):
        assert (await alice.get("/peelings/1", headers={"If-None-Match": tags})).status_code == 200


async def test_a_stranger_learns_nothing_from_a_precondition(alice, bob):
    await alice.post("/peelings", json=SOUP)
    for tags in ('"1"', '"9"', "*"):
        for method in ("PATCH", "DELETE"):
            body = {"json": {"title": "x"}} if method == "PATCH" else {}
            answer = await bob.request(method, "/peelings/1", headers={"If-Match": tags}, **body)
            assert answer.status_code == 404


async def test_a_database_that_was_read_only_for_a_while_is_written_again(serve, alice, sql):
    name = await sql.fetchval("SELECT current_database()")
    async with serve() as client:
        try:
            await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            answers = await asyncio.gather(
                *[client.post("/peelings", json=SOUP, headers=alice.headers) for _ in range(5)]
            )
        finally:
            await sql.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        for answer in answers:
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        for _ in range(5):
            answer = await client.post("/peelings", json=SOUP, headers=alice.headers)
            assert answer.status_code == 201


@pytest.fixture
async def defaults(sql):
    """Set defaults of the database for the connections that are made from now on."""
    name = await sql.fetchval("SELECT current_database()")

    async def defaults(**values):
        for setting, value in values.items():
            await sql.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")

    yield defaults
    await sql.execute(f"ALTER DATABASE {name} RESET ALL")


@pytest.mark.slow
async def test_twenty_twins_of_fifty_keys_make_fifty_rows(alice, sql):
    for number in range(50):
        answers = await asyncio.gather(
            *[alice.post("/peelings", json=SOUP, headers=keyed(f"key-{number}")) for _ in range(20)]
        )
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
    assert await count(sql) == await count(sql, "idempotency_keys") == 50


async def test_changes_that_cannot_be_serialized_are_tried_again(serve, alice, sql, defaults):
    await alice.post("/peelings", json=SOUP)
    # Behind that: a connection of the other tests' service must not begin with these.
    await defaults(default_transaction_isolation="repeatable read")
    changed = 0
    async with serve() as client:
        for round_ in range(20):
            bodies = [{"title": f"{round_}-{number}"} for number in range(2)]
            answers = await asyncio.gather(
                *[client.patch("/peelings/1", json=body, headers=alice.headers) for body in bodies]
            )
            assert {answer.status_code for answer in answers} <= {200, 409}
            changed += sum(answer.status_code == 200 for answer in answers)
    assert changed > 20  # one of each two at least, and some that were tried again
    assert await sql.fetchval("SELECT version FROM peelings") == 1 + changed


async def test_a_circle_of_locks_is_broken_and_nothing_is_lost(serve, alice, sql, other, defaults):
    await alice.post("/peelings", json=SOUP)
    # Behind that: a connection of the other tests' service must not begin with these.
    await defaults(deadlock_timeout="10ms")
    await other.execute("SET deadlock_timeout = '10s'")
    async with serve() as client:
        for number in range(20):
            headers = {**alice.headers, **keyed(f"key-{number}")}
            async with other.transaction():
                await other.execute("UPDATE peelings SET description = $1", str(number))
                # It has its key, and waits for the row; then we want the key too.
                title = {"title": f"mine {number}"}
                patch = asyncio.create_task(
                    client.patch("/peelings/1", json=title, headers=headers)
                )
                while not await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110  # nobody tells
                    await asyncio.sleep(0.001)
                await other.execute("LOCK TABLE idempotency_keys IN EXCLUSIVE MODE")
            assert (await patch).status_code == 200
            row = await sql.fetchrow("SELECT title, description FROM peelings")
            assert tuple(row) == (f"mine {number}", str(number))


async def test_who_waits_too_long_for_a_lock_is_told_to_come_back(serve, alice, sql, other):
    await alice.post("/peelings", json=SOUP)
    async with serve(lock_timeout=0.02) as client:
        for _ in range(20):
            async with other.transaction():
                await other.execute("SELECT * FROM peelings FOR UPDATE")
                answer = await client.patch(
                    "/peelings/1", json={"title": "x"}, headers=alice.headers
                )
            assert (answer.status_code, "retry-after" in answer.headers) == (409, True)
    assert await sql.fetchval("SELECT version FROM peelings") == 1
