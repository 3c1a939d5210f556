import asyncio
import statistics
import time
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from fastapi import APIRouter
from pydantic import SecretStr
from sqlalchemy import text

from features.password_resets import handlers
from features.password_resets.models import Account, PasswordReset
from kernel import open_session

RULES = {"create_password_reset": "open", "complete_password_reset": "open"}
COSTS = {"create_password_reset": 9, "complete_password_reset": 6}
NEW = "a new password"
ROW = "SELECT password_hash FROM users WHERE email = 'alice@example.com'"
ACCOUNT = text("""
    INSERT INTO users (email, full_name, password_hash)
    VALUES (:email, 'x', 'none') RETURNING id
""")


async def a_completion(caller, number):
    """A token that is good, of an account that is nobody's."""
    email, token = f"sample{number}@example.com", f"sample {number}"
    async with open_session(caller.app) as session:
        user_id = (await session.fetch(ACCOUNT, email=email))[0]["id"]
        account = Account(id=user_id, email=email, role="member", password_hash="none")
        bound_to, until = handlers._binding(account), datetime.now(UTC) + timedelta(hours=1)
        row = {"user_id": user_id, "digest": handlers._digest(token), "bound_to": bound_to}
        session.add(PasswordReset(**row, expires_at=until))
        await session.flush()
    return {"token": token, "password": NEW}


SAMPLES = {
    "create_password_reset": lambda caller, number: {"email": f"sample{number}@example.com"},
    "complete_password_reset": a_completion,
}


ASKED = "to ask twice is to have the later link sent: the one row of an account is its latest link"
OWN = "each of its requests has a token of its own, which ends with it"
SKIPS = {
    "create_password_reset": {"test_of_racing_twins_exactly_one_is_made": ASKED},
    "complete_password_reset": {
        "test_of_racing_twins_exactly_one_is_made": "test_of_two_who_use_a_token_at_once_one_wins",
        "test_no_text_of_a_body_becomes_sql": OWN,
    },
}


async def ask(client, email="alice@example.com"):
    return await client.post("/password-resets", json={"email": email})


async def complete(client, token, password=NEW, **headers):
    body = {"token": token, "password": password}
    return await client.post("/password-resets/completion", json=body, headers=headers)


async def sign_in(client, password, email="alice@example.com"):
    return await client.post("/auth/token", data={"username": email, "password": password})


@pytest.fixture
async def token(client, alice, jobs, mails):
    """The token of a link that was sent to Alice."""
    await ask(client)
    await jobs.drain()
    return mails.token


async def test_a_forgotten_password_is_replaced_by_a_link(client, alice, jobs, mails, password):
    answer = await ask(client, " ALICE@example.com")
    assert (answer.status_code, answer.content) == (204, b"")
    await jobs.drain()
    [mail] = mails.messages
    assert (mail["To"], mail["Subject"]) == ("alice@example.com", "A new password")
    assert mails.link == f"http://127.0.0.1:8000/password-reset#token={mails.token}"
    assert mails.link in mail.get_body(("html",)).get_content()
    assert (await complete(client, mails.token)).status_code == 204
    assert (await sign_in(client, password)).status_code == 401
    assert (await sign_in(client, NEW)).status_code == 200


async def test_a_new_password_ends_sign_ins_and_keys_and_is_told(
    client, alice, bob, jobs, token, log, sql
):
    keys = [
        (await caller.post("/keys", json={"name": "Robot"})).json()["key"]
        for caller in (alice, bob)
    ]
    assert (await complete(client, token)).status_code == 204
    assert (await alice.get("/users/me")).status_code == 401
    assert (await bob.get("/users/me")).status_code == 200
    for key, status in zip(keys, (401, 200), strict=True):
        answer = await client.get("/users/me", headers={"X-API-Key": key})
        assert answer.status_code == status
    events = [line["event"] for line in log.lines() if line["message"] == "security event"]
    assert events[-1] == "password_reset"
    assert await sql.fetchval("SELECT password_changed_at > created_at FROM users WHERE id = 1")
    assert await sql.fetchval("SELECT version FROM users WHERE id = 1") == 2


async def test_neither_token_nor_address_is_kept_or_logged(client, alice, jobs, serve, log, sql):
    await ask(client)
    kept = str(await sql.fetch("SELECT * FROM jobs"))
    await jobs.drain()
    [text] = [line["text"] for line in log.lines("INFO") if "/mail" in line["message"]]
    token = text.partition("#token=")[2].split()[0]
    kept += str(await sql.fetch("SELECT * FROM password_resets"))
    others = [line for line in log.lines() if "/mail" not in line["message"]]
    assert token not in kept + str(others)
    assert "alice@" not in str(others)


# Who has no account gets what everybody gets.


async def test_an_unknown_address_gets_the_same_answer_and_no_mail(
    client, admin, alice, jobs, mails
):
    await admin.patch(f"/users/{alice.user_id}", json={"is_active": False})
    expected = await ask(client, admin.email)
    for email in ("nobody@example.com", "alice@example.com"):
        answer = await ask(client, email)
        assert (answer.status_code, answer.content) == (expected.status_code, expected.content)
        per_response = {"x-request-id", "server-timing"}
        assert {*answer.headers.items()} - {*expected.headers.items()} <= {
            (name, answer.headers[name]) for name in per_response if name in answer.headers
        }
    await jobs.drain()
    assert [mail["To"] for mail in mails.messages] == [admin.email]


async def test_an_unknown_address_takes_as_long(serve, alice):
    seconds = {"alice@example.com": [], "nobody@example.com": []}
    # Of the requests alone: this process would do the jobs of the first between the second's.
    async with serve(sign_in_failures=1000, jobs="off") as client:
        for number in range(2 * 30):
            email = list(seconds)[number % 2]
            started = time.perf_counter()
            assert (await ask(client, email)).status_code == 204
            seconds[email].append(time.perf_counter() - started)
    of_account, of_nobody = map(statistics.median, seconds.values())
    assert 0.5 < of_nobody / of_account < 2


async def test_an_unknown_address_costs_as_many_statements(client, alice, log):
    for email in ("alice@example.com", "nobody@example.com") * 3:
        await ask(client, email)
    lines = [line for line in log.lines() if line.get("route") == "/password-resets"]
    assert {line["queries"] for line in lines[-4:]} == {lines[-1]["queries"]}


@pytest.mark.parametrize("email", ["alice@example.com", "nobody@example.com"])
async def test_who_asks_too_often_is_told_whoever_it_is(serve, alice, email, password):
    async with serve(sign_in_failures=3) as client:
        answers = [await ask(client, email) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [204, 204, 204, 429]
        assert 0 < int(answers[3].headers["retry-after"]) <= 300
        # Nobody is kept from signing in by that.
        if email == "alice@example.com":
            assert (await sign_in(client, password)).status_code == 200


async def test_who_asks_for_many_is_told(serve):
    async with serve(sign_in_failures=1) as client:
        answers = [await ask(client, f"nobody{number}@example.com") for number in range(11)]
    assert [answer.status_code for answer in answers] == [204] * 10 + [429]


async def test_where_no_mail_can_be_sent_nobody_is_promised_one(serve, alice, sql):
    async with serve(env="prod") as client:
        for email in ("alice@example.com", "nobody@example.com"):
            answer = await ask(client, email)
            assert (answer.status_code, answer.json()["error"]) == (501, "not_implemented")
    assert await sql.fetchval("SELECT count(*) FROM jobs") == 0


# Tokens that are not good.

ALMOST = {
    "truncated": lambda token: token[:-1],
    "extended": lambda token: token + "A",
    "in the other case": str.swapcase,
    "in small letters": str.lower,
    "padded": lambda token: token + "=",
    "behind a blank": lambda token: f" {token}",
    "before a line's end": lambda token: f"{token}\n",
    "with a NUL": lambda token: f"{token}\x00",
    "with a NUL in it": lambda token: f"{token[:9]}\x00{token[9:]}",
    "with what nobody sees": lambda token: f"{token}\u200b",
    "in other digits": lambda token: "".join(chr(0xFF01 + ord(c) - 0x21) for c in token),
    "twice": lambda token: token * 2,
    "huge": lambda token: token * 10_000,
    "its digest": lambda token: handlers._digest(token).hex(),
    "empty": lambda token: "",
    "a guess": lambda token: "A" * len(token),
    "a pattern": lambda token: f"{token[:10]}%",
    "the whole link": lambda token: f"http://127.0.0.1:8000/password-reset#token={token}",
    "SQL": lambda token: "' OR 'a' = 'a",
    "no text": lambda token: {"$ne": None},
    "a list": lambda token: [token],
    "null": lambda token: None,
}


@pytest.mark.parametrize("change", ALMOST.values(), ids=ALMOST)
async def test_what_is_almost_the_token_changes_nothing(client, token, sql, change):
    before = await sql.fetchval(ROW)
    answer = await complete(client, change(token))
    assert answer.status_code in {403, 422}
    assert token not in answer.text
    assert await sql.fetchval(ROW) == before
    assert (await complete(client, token)).status_code == 204


ENDED = {
    "expired": "UPDATE password_resets SET expires_at = now()",
    "password changed": "UPDATE users SET password_hash = 'x' WHERE id = 1",
    "hashed anew": "UPDATE users SET password_hash = password_hash || ' ' WHERE id = 1",
    "address changed": "UPDATE users SET email = 'alice@b.example' WHERE id = 1",
    "role changed": "UPDATE users SET role = 'admin' WHERE id = 1",
    "deactivated": "UPDATE users SET is_active = false WHERE id = 1",
    "deleted": "DELETE FROM users WHERE id = 1",
}


@pytest.mark.parametrize("change", ENDED.values(), ids=ENDED)
async def test_a_token_ends_with_what_it_was_made_for(client, token, sql, change):
    await sql.execute(change)
    before = await sql.fetch("SELECT * FROM users")
    answer = await complete(client, token)
    assert (answer.status_code, answer.json()["message"]) == (403, handlers.NOT_GOOD)
    assert await sql.fetch("SELECT * FROM users") == before


@pytest.mark.parametrize("end", [r"\ud800", r"\udfff", r"\u0000"])
async def test_what_is_no_text_is_refused(client, token, end):
    body = f'{{"token": "{token}{end}", "password": "{NEW}"}}'
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/password-resets/completion", content=body, headers=headers)
    assert answer.status_code == 422


async def test_a_token_is_good_once(client, token, sql):
    assert (await complete(client, token)).status_code == 204
    before = await sql.fetchval(ROW)
    for headers in ({}, {"Idempotency-Key": "again"}):
        answer = await complete(client, token, "another password", **headers)
        assert answer.status_code == 403
    assert await sql.fetchval(ROW) == before


async def test_a_key_does_not_bring_a_token_back(client, token):
    """An Idempotency-Key belongs to a caller, and who forgot a password is nobody."""
    key = {"Idempotency-Key": "the same"}
    assert (await complete(client, token, **key)).status_code == 204
    assert (await complete(client, token, **key)).status_code == 403


async def test_of_two_who_use_a_token_at_once_one_wins(client, token, sql):
    passwords = [f"password no. {number}" for number in range(4)]
    answers = await asyncio.gather(*[complete(client, token, each) for each in passwords])
    assert sorted(answer.status_code for answer in answers) == [204, 403, 403, 403]
    won = [answer.status_code for answer in answers].index(204)
    assert (await sign_in(client, passwords[won])).status_code == 200


async def test_a_password_that_changes_meanwhile_ends_the_token(client, token, sql):
    """The token has been looked at when its owner changes the password."""
    async with sql.transaction():
        await sql.execute(ENDED["password changed"])
        completing = asyncio.create_task(complete(client, token))
        await asyncio.sleep(0.5)
    assert (await completing).status_code == 403
    assert await sql.fetchval(ROW) == "x"


async def test_the_latest_link_alone_is_good(client, token, jobs, mails):
    await ask(client)
    await jobs.drain()
    assert mails.token != token
    assert (await complete(client, token)).status_code == 403
    assert (await complete(client, mails.token)).status_code == 204


async def test_a_token_is_its_accounts_and_nobody_elses(client, bob, token, jobs, mails, sql):
    bobs = "SELECT password_hash FROM users WHERE email = 'bob@example.com'"
    own = await sql.fetchval(bobs)
    assert (await complete(bob, token)).status_code == 204  # whoever sends it
    assert (await sign_in(client, NEW)).status_code == 200
    assert await sql.fetchval(bobs) == own


async def test_other_secrets_of_an_account_are_no_token(client, alice, password, token):
    tokens = (await sign_in(client, password)).json()
    key = (await alice.post("/keys", json={"name": "Robot"})).json()["key"]
    for secret in (tokens["access_token"], tokens["refresh_token"], key, password):
        assert (await complete(client, secret)).status_code in {403, 422}


@pytest.mark.parametrize(
    "bad", ["qwerty123", "short", "x" * 129, " Alice@EXAMPLE.com", "a\x00bcdefgh"]
)
async def test_a_bad_password_is_refused_and_the_token_is_good_still(client, token, bad):
    assert (await complete(client, token, bad)).status_code == 422
    assert (await complete(client, token)).status_code == 204


async def test_a_dry_run_uses_no_token(client, token):
    answer = await complete(client, token, Prefer="tx=rollback")
    assert (answer.status_code, answer.headers["preference-applied"]) == (204, "tx=rollback")
    assert (await complete(client, token)).status_code == 204


async def test_a_dry_run_sends_no_mail(client, alice, jobs, mails):
    headers, body = {"Prefer": "tx=rollback"}, {"email": "alice@example.com"}
    assert (await client.post("/password-resets", json=body, headers=headers)).is_success
    assert (await jobs.drain(), [*mails.messages]) == ([], [])


# A mail that is sent again.


@pytest.fixture
async def send(alice, app, jobs, sql):
    """Send the same mail as often as one likes, as a job is run again whose end nobody knows."""
    arguments = {"email": "alice@example.com", "seed": "5eed" * 16}
    until = datetime.now(UTC) + handlers.LIFETIME

    async def send(until=until, **changes):
        async with open_session(app) as session:
            values = arguments | changes
            await session.enqueue(handlers.send_reset, until=until, **values)
        await jobs.drain()

    return send


async def test_a_mail_that_comes_twice_has_one_link(client, send, mails):
    await send()
    first = mails.token
    await send()
    assert mails.token == first
    assert (await complete(client, first)).status_code == 204


@pytest.mark.parametrize(
    "change", [None, "UPDATE users SET password_hash = 'x'", ENDED["address changed"]]
)
async def test_what_has_ended_a_link_ends_it_for_good(client, send, mails, sql, change):
    await send()
    token = mails.token
    if change:
        await sql.execute(change)
    else:
        await complete(client, token)
    await send()
    assert len(mails.messages) == 1  # nor is it sent again
    assert (await complete(client, token, "another password")).status_code == 403


async def test_a_job_that_was_late_replaces_nothing_and_sends_nothing(client, send, mails):
    await send()
    token = mails.token
    await send(datetime.now(UTC) + timedelta(minutes=1), seed="01d5" * 16)
    assert [mails.token for _ in mails.messages] == [token]
    assert (await complete(client, token)).status_code == 204


async def test_a_link_is_good_for_half_an_hour(client, alice, jobs, mails, sql):
    await ask(client)
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=31)):
        await jobs.drain()
    assert [*mails.messages] == []
    assert timedelta(minutes=30) == handlers.LIFETIME


async def test_links_that_are_over_are_forgotten(app, token, jobs, sql):
    for change, count in (("SELECT 1", 1), (ENDED["expired"], 0)):
        await sql.execute(change)
        async with open_session(app) as session:
            await handlers.sweep_resets(session)
        assert await sql.fetchval("SELECT count(*) FROM password_resets") == count


# Through a mail server.


async def test_a_reset_goes_through_the_mail_server(mount, mail_server, alice, jobs):
    mail_server.answers["RCPT"] = ["451 4.7.1 come again"]
    async with mount(APIRouter(), env="prod", **mail_server.settings) as client:
        its_jobs = type(jobs)(client.app)
        await ask(client)
        await its_jobs.drain(raises=False)
        assert [*mail_server.messages] == []
        with time_machine.travel(datetime.now(UTC) + timedelta(minutes=1)):
            await its_jobs.drain()
        [mail] = mail_server.messages
        assert (mail["From"], mail["To"]) == ("Shop <shop@example.com>", alice.email)
        base = "https://app.example.com/password-reset"
        assert mail_server.link == f"{base}#token={mail_server.token}"
        assert (await complete(client, mail_server.token)).status_code == 204
        assert (await sign_in(client, NEW)).status_code == 200


async def test_a_new_signing_secret_ends_no_link(mount, mail_server, client, bob, token, jobs):
    """Neither one that was sent nor one that waits to be, whatever becomes of the old secret."""
    await ask(client, bob.email)
    new = {"jwt_secret": SecretStr("another secret, of 40 characters or so")}
    async with mount(APIRouter(), env="prod", **new, **mail_server.settings) as after:
        await type(jobs)(after.app).drain()
        for good in (token, mail_server.token):
            assert (await complete(after, good)).status_code == 204


async def test_a_mailbox_that_is_nobodys_is_not_tried_again(mount, mail_server, alice, jobs, sql):
    mail_server.answers["RCPT"] = ["550 5.1.1 <alice@example.com> is nobody"]
    async with mount(APIRouter(), env="prod", **mail_server.settings) as client:
        await ask(client)
        await type(jobs)(client.app).drain(raises=False)
    [job] = await sql.fetch("SELECT state, error FROM jobs")
    assert (job["state"], "alice" in job["error"]) == ("failed", False)
