import asyncio
from datetime import UTC, datetime, timedelta

import pytest

RULES = {
    "create_key": "person",
    "list_keys": "signed_in",
    "delete_key": "owner",
}
COSTS = {"create_key": 4, "list_keys": 2}


SLOW_KEYS = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$;
    CREATE TRIGGER wait BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION wait()
"""


@pytest.fixture
async def key(alice):
    return (await alice.post("/keys", json={"name": "Robot"})).json()


def using(key):
    return {"X-API-Key": key["key"]}


async def test_a_created_key_is_shown_once_and_kept_as_a_digest(alice, sql):
    answer = await alice.post("/keys", json={"name": "Robot", "expires_at": None})
    key = answer.json()
    secret = key.pop("key")
    assert answer.status_code == 201
    assert secret.startswith(key["prefix"])
    assert len(key["prefix"]) == 12
    assert len(secret) == 47
    assert (await alice.get("/keys")).json() == {"items": [key], "next_cursor": None}
    assert secret[12:] not in str(await sql.fetch("SELECT * FROM api_keys"))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": " "},
        {"name": "x" * 101},
        {"name": "x", "user_id": 2},
        {"name": "x", "key": "mine"},
        {"name": "x", "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "x", "expires_at": "2030-01-01T00:00:00"},
        {"name": "x", "expires_at": "0001-01-01T00:00:00+14:00"},
        {"name": "x", "expires_at": "9999-12-31T23:59:59-14:00"},
        {"name": "x", "expires_at": "infinity"},
        {"name": "x", "expires_at": 1e300},
    ],
)
async def test_an_invalid_key_is_refused(alice, body):
    assert (await alice.post("/keys", json=body)).status_code == 422


async def test_a_key_stands_for_its_user(client, alice, key):
    for method, path, body in (
        ("GET", "/users/me", None),
        ("PATCH", "/users/me", {"full_name": "A"}),
    ):
        answer = await client.request(method, path, json=body, headers=using(key))
        assert answer.is_success
        assert answer.json()["id"] == alice.user_id


@pytest.mark.parametrize(
    "change",
    [
        lambda secret: f"x{secret}",
        lambda secret: secret[:-1],
        lambda secret: secret[:4].upper() + secret[4:],
        lambda secret: secret[4:],
    ],
    ids=["longer", "shorter", "in capitals", "without its prefix"],
)
async def test_a_key_that_is_not_exactly_right_is_refused(client, key, change):
    wrong = change(key["key"])
    answer = await client.get("/users/me", headers={"X-API-Key": wrong})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer, APIKey")


@pytest.mark.parametrize("value", ["", " ", "x" * 100_000, "\u00fc", "x_"])
async def test_what_is_no_key_is_refused(client, alice, value):
    answer = await client.get("/users/me", headers=[(b"X-API-Key", value.encode())])
    assert answer.status_code == 401


async def test_no_key_comes_out_of_a_dry_run(alice, sql):
    answer = await alice.post("/keys", json={"name": "x"}, headers={"Prefer": "tx=rollback"})
    assert (answer.status_code, "key" in answer.json()) == (400, False)
    assert await sql.fetchval("SELECT count(*) FROM api_keys") == 0


async def test_of_two_keys_none_counts(client, alice, key):
    good = key["key"]
    for values in ((good, good), (good, "x"), ("x", good), ("", good), (good, ""), (f"{good},x",)):
        headers = [("X-API-Key", value) for value in values]
        assert (await client.get("/users/me", headers=headers)).status_code == 401


async def test_a_deleted_key_is_dead_at_once(client, alice, key):
    assert (await client.get("/users/me", headers=using(key))).status_code == 200
    assert (await alice.delete(f"/keys/{key['id']}")).status_code == 204
    assert (await client.get("/users/me", headers=using(key))).status_code == 401
    assert (await alice.delete(f"/keys/{key['id']}")).status_code == 404


async def test_an_expired_key_is_dead(client, alice, sql):
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    key = (await alice.post("/keys", json={"name": "Robot", "expires_at": soon})).json()
    assert (await client.get("/users/me", headers=using(key))).status_code == 200
    await sql.execute("UPDATE api_keys SET expires_at = now()")
    assert (await client.get("/users/me", headers=using(key))).status_code == 401


async def test_the_key_of_a_deactivated_user_is_dead(client, admin, alice, key):
    await admin.patch(f"/users/{alice.user_id}", json={"is_active": False})
    assert (await client.get("/users/me", headers=using(key))).status_code == 401


async def test_the_last_use_is_noted_at_most_once_a_minute(client, alice, key, sql):
    async def last_use():
        return await sql.fetchval("SELECT last_used_at FROM api_keys")

    assert await last_use() is None
    await asyncio.gather(*[client.get("/users/me", headers=using(key)) for _ in range(5)])
    first = await last_use()
    assert first is not None
    await client.get("/users/me", headers=using(key))
    assert await last_use() == first
    await sql.execute("UPDATE api_keys SET last_used_at = now() - interval '2 minutes'")
    await client.patch("/users/me", json={}, headers=using(key))
    assert await last_use() > first


async def test_a_key_makes_no_key(client, alice, key, sql):
    answer = await client.post("/keys", json={"name": "Robot"}, headers=using(key))
    assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    assert await sql.fetchval("SELECT count(*) FROM api_keys") == 1


async def test_no_key_outlives_the_end_of_the_sign_in_that_was_making_it(client, alice, sql):
    """The thief's request has been let in when the sign-in ends."""
    await sql.execute(SLOW_KEYS)
    making = asyncio.create_task(alice.post("/keys", json={"name": "Robot"}))
    await asyncio.sleep(0.2)
    ended = await sql.execute("DELETE FROM refresh_tokens")  # waits
    kept = await sql.fetchval("SELECT count(*) FROM api_keys")
    await sql.execute("DROP FUNCTION wait CASCADE")
    assert ((await making).status_code, ended, kept) == (201, "DELETE 1", 1)


async def test_someone_elses_key_is_not_found(bob, admin, key):
    for caller in (bob, admin):
        assert (await caller.delete(f"/keys/{key['id']}")).status_code == 404
        assert (await caller.get("/keys")).json()["items"] == []
