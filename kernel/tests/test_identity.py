"""What ends is over, whoever races it: attacks on accounts, on a service whose hashes are cheap."""

import asyncio
import re
import time
from base64 import urlsafe_b64decode
from contextlib import asynccontextmanager
from uuid import UUID

import jwt
import pytest
from fastapi import WebSocket
from sqlalchemy import func
from sqlalchemy.dialects import postgresql
from sqlmodel import col

from features.auth.handlers.issue import SWEEP
from kernel.data.idempotency_keys import IdempotencyKey
from kernel.data.sweeps import sweeping
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.testing.asking import password_hash, running_app  # noqa: F401  # fixtures
from kernel.testing.callers import PASSWORD
from kernel.testing.operations import operations
from kernel.tests.app import PATHS

NEW = "another pass phrase"
EMAIL = "alice@example.com"
WAIT = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;
"""
SLOW_KEYS = f"""
    {WAIT}
    CREATE TRIGGER wait BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION wait()
"""
SLOW_NAMES = f"""
    {WAIT}
    CREATE TRIGGER wait BEFORE UPDATE ON users FOR EACH ROW
        WHEN (NEW.full_name <> OLD.full_name) EXECUTE FUNCTION wait()
"""
SIGN_INS = "SELECT count(*) FROM refresh_tokens"


async def sign_in(client, password=PASSWORD, email=EMAIL, **headers):
    form = {"username": email, "password": password}
    return await client.post(PATHS["create_token"], data=form, headers=headers)


async def refresh(client, token):
    return await client.post(PATHS["refresh_token"], json={"refresh_token": token})


async def change_password(caller, current, new, **more):
    change = {"password": new, "current_password": current} | more
    return await caller.patch("/users/me", json=change)


async def status_of_me(client, tokens):
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    return (await client.get("/users/me", headers=bearer)).status_code


async def repeat(steal, done, stolen):
    """Steal tokens until the password has changed, and once more."""
    while True:
        is_last = done.is_set()
        answer = await steal(stolen[-1]["refresh_token"] if stolen else None)
        if answer.status_code == 200:
            stolen.append(answer.json())
        elif stolen and answer.status_code == 401:
            return
        if is_last:
            return


@asynccontextmanager
async def busy(attack, times=3):
    """Let it go on all the time, so often at once, for the block; it ends when it is refused."""
    is_over = asyncio.Event()

    async def go_on():
        while not is_over.is_set():
            if (await attack()).status_code in (401, 403):
                return

    tasks = [asyncio.create_task(go_on()) for _ in range(times)]
    await asyncio.sleep(0.01)
    try:
        yield
    finally:
        is_over.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("way", ["by refreshing", "by signing in"])
async def test_no_thief_outlives_a_change_of_the_password(client, alice, sql, way):
    old, new = PASSWORD, NEW
    for round_ in range(10):
        stolen, done = [(await sign_in(client, old)).json()], asyncio.Event()

        async def steal(token, old=old):
            return await (refresh(client, token) if "refresh" in way else sign_in(client, old))

        thieves = [asyncio.create_task(repeat(steal, done, stolen)) for _ in range(3)]
        await asyncio.sleep(0.002 * round_)
        assert (await change_password(alice, old, new)).status_code == 200
        done.set()
        await asyncio.gather(*thieves)
        for tokens in stolen[-10:]:
            assert await status_of_me(client, tokens) == 401, (round_, len(stolen))
            assert (await refresh(client, tokens["refresh_token"])).status_code == 401
        assert (await alice.get("/users/me")).status_code == 200
        assert await sql.fetchval(SIGN_INS) == 1  # Alice's own
        old, new = new, old


@pytest.mark.parametrize("rounds", [50, pytest.param(300, marks=pytest.mark.slow)])
async def test_no_refresh_outlives_a_logout_that_it_raced(client, alice, sql, rounds):
    met = 0
    for round_ in range(rounds):
        token = (await sign_in(client)).json()["refresh_token"]

        async def leave(token=token, seconds=0.004 * (round_ % 50) / 50):
            await asyncio.sleep(seconds)
            return await client.post(PATHS["sign_out"], json={"refresh_token": token})

        refreshed, left = await asyncio.gather(refresh(client, token), leave())
        assert left.status_code == 204
        if refreshed.status_code == 200:
            met += 1
            assert await status_of_me(client, refreshed.json()) == 401
            again = await refresh(client, refreshed.json()["refresh_token"])
            assert again.status_code == 401
    assert met, "no refresh came before its logout"
    assert await sql.fetchval(SIGN_INS) == 1  # Alice's own


async def test_no_key_of_a_thief_outlives_a_change_of_the_password(client, alice, sql):
    old, new = PASSWORD, NEW
    for round_ in range(10):
        thief = (await sign_in(client, old)).json()
        headers = {"Authorization": f"Bearer {thief['access_token']}"}

        async def make(headers=headers):
            for _ in range(1000):  # or a sign-in that does not end would never let this end
                if not (await client.post("/keys", json={"name": "K"}, headers=headers)).is_success:
                    return

        thieves = [asyncio.create_task(make()) for _ in range(3)]
        await asyncio.sleep(0.002 * round_)
        assert (await change_password(alice, old, new)).status_code == 200
        await asyncio.gather(*thieves)
        assert await sql.fetchval("SELECT count(*) FROM api_keys") == 0
        old, new = new, old


async def test_a_password_that_two_change_at_once_is_one_of_theirs(client, alice):
    answers = await asyncio.gather(
        *[change_password(alice, PASSWORD, f"pass phrase {n}") for n in range(4)]
    )
    assert {answer.status_code for answer in answers} <= {200, 403, 409}
    (winner,) = [n for n, answer in enumerate(answers) if answer.status_code == 200]
    assert (await sign_in(client, f"pass phrase {winner}")).status_code == 200


async def test_identity_is_never_a_replicas_word(app, client, alice, monkeypatch):
    async def fail(*_, **__):
        raise AssertionError("identity has asked the replica")

    resources = app.state.resources
    methods = {"fetch": fail, "first": fail, "loads": lambda _: []}
    monkeypatch.setattr(resources, "reader", type("Replica", (), methods)())
    tokens = await sign_in(client)
    assert tokens.status_code == 200
    bearer = {"Authorization": f"Bearer {tokens.json()['access_token']}"}
    assert (await client.get(PATHS["list_sign_ins"], headers=bearer)).status_code == 200
    assert (await refresh(client, tokens.json()["refresh_token"])).status_code == 200


# Nobody keeps an end from coming by being busy.


async def test_no_thief_keeps_the_password_from_changing(client, alice, sql):
    """With a stolen token, or a key, the name can be changed, and with it the row's version."""
    thief = (await sign_in(client)).json()
    headers = {"Authorization": f"Bearer {thief['access_token']}"}
    await sql.execute(SLOW_NAMES)
    renaming = client.patch("/users/me", json={"full_name": "x"}, headers=headers)
    task = asyncio.create_task(renaming)
    await asyncio.sleep(0.1)
    changed = await change_password(alice, PASSWORD, NEW)
    await sql.execute("DROP FUNCTION wait CASCADE")
    assert ((await task).status_code, changed.status_code) == (200, 200)
    assert await status_of_me(client, thief) == 401


async def test_no_thief_keeps_a_sign_in_from_ending(client, alice):
    for _ in range(10):
        tokens = [(await sign_in(client)).json()]

        async def renew(tokens=tokens):
            answer = await refresh(client, tokens[-1]["refresh_token"])
            if answer.status_code == 200:
                tokens.append(answer.json())
            return answer

        newest = (await alice.get(PATHS["list_sign_ins"])).json()["items"][0]
        async with busy(renew, times=1):  # several would use a token again, which ends it
            ended = await alice.delete(f"{PATHS['list_sign_ins']}/{newest['id']}")
        assert ended.status_code == 204
        assert [await status_of_me(client, each) for each in tokens[-3:]].count(200) == 0


@pytest.mark.parametrize("end", ["deactivate", "delete"])
async def test_no_member_keeps_an_admin_from_ending_the_account(admin, sign_up, end):
    for number in range(10):
        member = await sign_up(f"Member {number}")
        attacks = iter(range(1_000_000))

        async def attack(member=member, attacks=attacks):
            if next(attacks) % 2:
                return await member.post("/keys", json={"name": "K"})
            return await member.patch("/users/me", json={"full_name": "x"})

        url = f"/users/{member.user_id}"
        async with busy(attack):
            if end == "delete":
                answer = await admin.delete(url)
            else:
                answer = await admin.patch(url, json={"is_active": False})
        assert answer.is_success, answer.text
        assert (await member.get("/users/me")).status_code == 401


async def test_who_makes_a_key_keeps_nobody_waiting_in_a_circle(alice, admin, sql):
    """It has locked its sign-in, and then needs the row of the user, whom an admin deletes."""
    await sql.execute(SLOW_KEYS)
    making = asyncio.create_task(alice.post("/keys", json={"name": "K"}))
    await asyncio.sleep(0.1)
    started = time.perf_counter()
    deleted = await admin.delete(f"/users/{alice.user_id}")
    seconds = time.perf_counter() - started
    await sql.execute("DROP FUNCTION wait CASCADE")
    assert ((await making).status_code, deleted.status_code) == (201, 204)
    assert seconds < 1  # PostgreSQL looks for circles after that


async def test_who_is_active_again_signs_in_again(client, alice, admin, sql):
    stolen, url = (await sign_in(client)).json(), f"/users/{alice.user_id}"
    racing = [sign_in(client) for _ in range(5)]
    away = admin.patch(url, json={"is_active": False})
    *raced, answer = await asyncio.gather(*racing, away)
    assert answer.status_code == 200
    assert await sql.fetchval(SIGN_INS) == 1  # the admin's
    assert (await admin.patch(url, json={"is_active": True})).status_code == 200
    for each in [stolen, *(answer.json() for answer in raced if answer.status_code == 200)]:
        assert await status_of_me(client, each) == 401
        assert (await refresh(client, each["refresh_token"])).status_code == 401
    assert (await alice.get("/users/me")).status_code == 401
    assert (await sign_in(client)).status_code == 200


async def test_the_reuse_of_a_refresh_token_is_one_line_however_often_at_once(client, alice, log):
    body = {"refresh_token": (await sign_in(client)).json()["refresh_token"]}
    second = (await client.post(PATHS["refresh_token"], json=body)).json()
    await refresh(client, second["refresh_token"])
    await asyncio.gather(*[client.post(PATHS["refresh_token"], json=body) for _ in range(10)])
    events = [line["event"] for line in log.lines() if line["message"] == "security event"]
    assert events.count("refresh_token_reused") == 1


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
async def test_any_number_of_refreshes_is_one_row_and_ends_at_once(client, alice, sql, count):
    token = (await sign_in(client)).json()["refresh_token"]
    for _ in range(count):
        token = (await refresh(client, token)).json()["refresh_token"]
    assert await sql.fetchval(SIGN_INS) == 2  # Alice's own, and this one
    seconds = []
    for headers in [{"Prefer": "tx=rollback"}] * 3 + [{}]:
        started = time.perf_counter()
        body = {"refresh_token": token}
        answer = await client.post(PATHS["sign_out"], json=body, headers=headers)
        seconds.append(time.perf_counter() - started)
        assert answer.status_code == 204
    assert min(seconds) < 0.05  # what a busy machine adds is not in each
    assert await sql.fetchval(SIGN_INS) == 1


async def test_what_is_over_is_swept_by_another_sign_in(client, alice, sql, monkeypatch):
    await sql.execute("""
        INSERT INTO refresh_tokens (user_id, family, digest, expires_at)
        SELECT 1, gen_random_uuid(), int4send(n), now() FROM generate_series(1, 1200) n
    """)
    over = "SELECT count(*) FROM refresh_tokens WHERE expires_at <= now()"
    numbers = iter(range(1, 3))
    monkeypatch.setattr("features.auth.handlers.issue.uuid4", lambda: UUID(int=next(numbers)))
    for left in (200, 0):  # a thousand at once
        assert (await sign_in(client)).status_code == 200
        assert await sql.fetchval(over) == left
    assert await sql.fetchval(SIGN_INS) == 3


KEYS_SWEEP = sweeping(
    IdempotencyKey, col(IdempotencyKey.digest), col(IdempotencyKey.created_at) < func.now()
)


@pytest.mark.parametrize("sweep", [SWEEP, KEYS_SWEEP], ids=["sign-ins", "keys"])
async def test_a_sweep_deletes_a_thousand_rows_whatever_its_plan(sql, alice, sweep):
    await sql.execute(f"""
        INSERT INTO refresh_tokens (user_id, family, digest, expires_at)
            SELECT {alice.user_id}, gen_random_uuid(), int4send(n), '2020-01-01'
            FROM generate_series(1, 1200) n;
        INSERT INTO idempotency_keys (digest, fingerprint, created_at)
            SELECT int4send(n), '', '2020-01-01' FROM generate_series(1, 1200) n
    """)
    for way in ("hashjoin", "mergejoin", "hashagg", "sort", "material"):
        await sql.execute(f"SET enable_{way} = off")
    statement = sweep.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    assert await sql.execute(str(statement)) == "DELETE 1000"
    await sql.execute("RESET ALL")


# No door lets in who has been shown out.


async def test_a_token_of_an_ended_sign_in_opens_nothing(app, client, alice):
    tokens = (await sign_in(client)).json()
    await client.post(PATHS["sign_out"], json={"refresh_token": tokens["refresh_token"]})
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    asked = 0
    for operation in operations(app):
        if "security" in operation.spec:
            url = re.sub(r"\{\w+\}", "1", operation.path)
            answer = await client.request(operation.method, url, headers=bearer)
            assert answer.status_code == 401, operation.title
            asked += 1
    assert asked > 20


async def own_refresh_token(caller):
    return {"refresh_token": (await sign_in(caller)).json()["refresh_token"]}


async def test_a_socket_opens_for_no_ended_sign_in(mount, client, alice, sql):
    router = Router(prefix="/sockets", tags=["sockets"])

    @router.websocket("/me")
    async def tell(socket: WebSocket, me: CurrentUser) -> None:
        await socket.accept()
        await socket.send_text(f"{me.id}")

    async with mount(router) as served:
        tokens = (await sign_in(served)).json()
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        async with served.socket("/sockets/me", headers=bearer) as socket:
            assert await socket.receive() == f"{alice.user_id}"
        await served.post(PATHS["sign_out"], json={"refresh_token": tokens["refresh_token"]})
        async with served.socket("/sockets/me", headers=bearer) as socket:
            assert socket.status == 401


async def test_the_id_of_a_sign_in_in_the_list_is_not_the_one_in_its_tokens(alice):
    page = (await alice.get(PATHS["list_sign_ins"])).text
    token = alice.headers["authorization"].partition(" ")[2]
    sid = jwt.decode(token, options={"verify_signature": False})["sid"]
    assert sid not in page.replace("-", "")


@pytest.mark.parametrize(
    "prefer", ["tx=rollback", 'TX="rollback"; x=1', "return=minimal, tx=rollback"]
)
async def test_no_credential_comes_out_of_a_dry_run(client, alice, sql, prefer):
    token, dry = await own_refresh_token(client), {"Prefer": prefer}
    before = await sql.fetch("SELECT digest FROM refresh_tokens ORDER BY id")
    for answer in (
        await sign_in(client, **dry),
        await client.post(PATHS["refresh_token"], json=token, headers=dry),
        await alice.post("/keys", json={"name": "K"}, headers=dry),
    ):
        assert answer.status_code == 400
        assert not {"access_token", "refresh_token", "key"} & answer.json().keys()
    assert await sql.fetch("SELECT digest FROM refresh_tokens ORDER BY id") == before
    assert await sql.fetchval("SELECT count(*) FROM api_keys") == 0


async def test_what_is_no_address_signs_nobody_in(client, alice):
    for email in (
        "\x00",
        "a\x00@example.com",
        "\ud800".encode("utf-8", "surrogatepass"),
        "@",
        "x" * 5000,
    ):
        form = {"username": email, "password": PASSWORD}
        assert (await client.post(PATHS["create_token"], data=form)).status_code in (401, 422)


async def test_a_refresh_token_has_256_random_bits(client, alice):
    answers = [await sign_in(client) for _ in range(20)]
    secrets = [answer.json()["refresh_token"].partition(".")[2] for answer in answers]
    fresh = [(await refresh(client, answers[0].json()["refresh_token"])).json()["refresh_token"]]
    secrets += [token.partition(".")[2] for token in fresh]
    assert {len(urlsafe_b64decode(f"{secret}=")) for secret in secrets} == {32}
    assert len({*secrets}) == 21
    assert len({secret[n] for secret in secrets for n in range(43)}) > 50  # of 64 characters


async def test_a_sign_in_sets_no_cookie(client, alice):
    tokens, refused = await sign_in(client), await sign_in(client, "wrong")
    for answer in (tokens, refused, await alice.get("/users/me")):
        assert "set-cookie" not in answer.headers


def test_no_operation_takes_a_credential_in_its_url(app):
    for operation in operations(app):
        names = {*operation.parameters("query"), *operation.parameters("path")}
        assert not [each for each in names if re.search("token|key$|password|secret", each)]


async def test_a_key_makes_no_admin_who_would_outlive_it(client, admin, bob, sql):
    key = (await admin.post("/keys", json={"name": "Robot"})).json()["key"]
    url, machine = f"/users/{bob.user_id}", {"X-API-Key": key}
    for change in ({"role": "admin"}, {"role": "member"}):
        answer = await client.patch(url, json=change, headers=machine)
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    assert (await client.patch(url, json={"is_active": False}, headers=machine)).status_code == 200
    assert await sql.fetchval("SELECT role FROM users WHERE id = $1", bob.user_id) == "member"
