import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from fastapi import APIRouter
from pydantic import SecretStr
from sqlalchemy import insert

from features.invitations import handlers
from features.invitations.models import Invitation, users
from kernel import open_session

RULES = {
    "create_invitation": "admin",
    "list_invitations": "admin",
    "renew_invitation": "admin",
    "revoke_invitation": "admin",
    "accept_invitation": "open",
}
COSTS = {"create_invitation": 6, "renew_invitation": 6, "accept_invitation": 5}
INVITER = insert(users).returning(users.c.id)
CAROL = "carol@example.com"
ACCEPTED = {"full_name": "Carol", "password": "correct horse battery"}


async def an_acceptance(caller, number):
    """The token of an invitation, by an admin who is nobody else's."""
    token = f"sample {number}"
    admin = {"email": f"inviter{number}@example.com", "full_name": "Inviter", "role": "admin"}
    async with open_session(caller.app) as session:
        values = admin | {"password_hash": "none"}
        inviter = (await session.fetch(INVITER.values(values)))[0]["id"]
        invited = {"email": f"guest{number}@example.com", "role": "member", "invited_by": inviter}
        until, digest = datetime.now(UTC) + timedelta(hours=1), handlers._digest(token)
        session.add(Invitation(**invited, digest=digest, expires_at=until))
        await session.flush()
    return ACCEPTED | {"token": token}


SAMPLES = {
    "create_invitation": lambda caller, number: {"email": f"guest{number}@example.com"},
    "accept_invitation": an_acceptance,
}


OWN = "each of its requests has an invitation of its own, which ends with it"
SKIPS = {"accept_invitation": {"test_no_text_of_a_body_becomes_sql": OWN}}


async def invite(caller, **changes):
    return await caller.post("/invitations", json={"email": CAROL} | changes)


async def accept(client, token, **changes):
    return await client.post("/invitations/acceptance", json=ACCEPTED | {"token": token} | changes)


async def sign_in(client, password=ACCEPTED["password"]):
    return await client.post("/auth/token", data={"username": CAROL, "password": password})


@pytest.fixture
async def token(admin, jobs, mails):
    """The token of a link that was sent to Carol."""
    assert (await invite(admin)).status_code == 201
    await jobs.drain()
    return mails.token


@pytest.mark.parametrize("role", ["member", "admin"])
async def test_who_is_invited_chooses_a_password_and_joins(client, admin, jobs, mails, role):
    answer = await invite(admin, email=" Carol@Example.com", role=role)
    invitation = answer.json()
    assert answer.status_code == 201
    assert (invitation["email"], invitation["role"]) == (CAROL, role)
    assert invitation["invited_by"] == admin.user_id
    assert (await admin.get("/invitations")).json()["items"] == [invitation]
    await jobs.drain()
    [mail] = mails.messages
    assert mail["To"] == CAROL
    assert mails.link == f"http://127.0.0.1:8000/invitation#token={mails.token}"
    assert mails.link in mail.get_body(("html",)).get_content()
    accepted = await accept(client, mails.token)
    assert (accepted.status_code, accepted.content) == (204, b"")
    account = {"email": CAROL, "full_name": "Carol", "role": role}
    bearer = {"Authorization": f"Bearer {(await sign_in(client)).json()['access_token']}"}
    assert (await client.get("/users/me", headers=bearer)).json().items() >= account.items()
    assert (await admin.get("/invitations")).json()["items"] == []


async def test_outside_dev_invitations_are_how_people_join(mount, mail_server, admin, jobs):
    mail_server.answers["RCPT"] = ["421 4.3.2 not now"]
    async with mount(APIRouter(), env="prod", **mail_server.settings) as client:
        its_jobs = type(jobs)(client.app)
        body = ACCEPTED | {"email": CAROL}
        assert (await client.post("/users", json=body)).status_code == 401
        answer = await client.post("/invitations", json={"email": CAROL}, headers=admin.headers)
        assert answer.status_code == 201
        await its_jobs.drain(raises=False)
        assert [*mail_server.messages] == []
        with time_machine.travel(datetime.now(UTC) + timedelta(minutes=1)):
            await its_jobs.drain()
        [mail] = mail_server.messages
        assert (mail["From"], mail["To"]) == ("Shop <shop@example.com>", CAROL)
        assert mail_server.link.startswith("https://app.example.com/invitation#token=")
        assert (await accept(client, mail_server.token)).status_code == 204
        assert (await sign_in(client)).status_code == 200


async def test_a_new_signing_secret_ends_no_link(mount, mail_server, admin, token, jobs):
    """Neither one that was sent nor one that waits to be, whatever becomes of the old secret."""
    await invite(admin, email="dora@example.com")
    new = {"jwt_secret": SecretStr("another secret, of 40 characters or so")}
    async with mount(APIRouter(), env="prod", **new, **mail_server.settings) as client:
        await type(jobs)(client.app).drain()
        assert [mail["To"] for mail in mail_server.messages] == ["dora@example.com"]
        for good in (token, mail_server.token):
            assert (await accept(client, good)).status_code == 204


async def test_where_no_mail_can_be_sent_nobody_is_invited(serve, admin, sql):
    async with serve(env="prod") as client:
        answer = await client.post("/invitations", json={"email": CAROL}, headers=admin.headers)
        assert (answer.status_code, answer.json()["error"]) == (501, "not_implemented")
    assert await sql.fetchval("SELECT count(*) FROM invitations") == 0


async def test_neither_token_nor_address_is_kept_or_logged(admin, token, log, sql):
    kept = [await sql.fetch("SELECT * FROM invitations"), await sql.fetch("SELECT * FROM jobs")]
    assert token not in str(kept)
    others = [line for line in log.lines() if "/mail" not in line["message"]]
    assert token not in str(others)
    assert CAROL not in str(others)


async def test_what_happens_to_invitations_is_told(log, client, admin, token, jobs, mails):
    invitation = (await admin.get("/invitations")).json()["items"][0]
    await admin.post(f"/invitations/{invitation['id']}/renewal")
    await jobs.drain()
    await accept(client, mails.token)
    other = (await invite(admin, email="dora@example.com")).json()["id"]
    await admin.delete(f"/invitations/{other}")
    events = [line["event"] for line in log.lines() if line["message"] == "security event"]
    assert events == ["invited", "invited", "invitation_accepted", "invited", "invitation_revoked"]


async def test_only_a_person_who_is_an_admin_invites(client, admin, alice):
    key = (await admin.post("/keys", json={"name": "Robot"})).json()["key"]
    body = {"email": CAROL}
    answers = [
        await client.post("/invitations", json=body, headers=headers)
        for headers in ({}, alice.headers, {"X-API-Key": key})
    ]
    assert [answer.status_code for answer in answers] == [401, 403, 403]


@pytest.mark.parametrize(
    "change",
    [{"email": "carol"}, {"email": f"{CAROL}\nBcc: eve@example.com"}, {"role": "owner"}, {"id": 1}],
)
async def test_an_invalid_invitation_is_refused(admin, change):
    assert (await invite(admin, **change)).status_code == 422


async def test_who_has_an_account_or_an_invitation_is_not_invited_again(admin, alice, token):
    for email in (alice.email, CAROL, "CAROL@example.com"):
        answer = await invite(admin, email=email)
        assert (answer.status_code, answer.json()["error"]) == (409, "conflict")


# Tokens that are not good.

ALMOST = {
    "truncated": lambda token: token[:-1],
    "extended": lambda token: token + "A",
    "in the other case": str.swapcase,
    "behind a blank": lambda token: f" {token}",
    "with a NUL": lambda token: f"{token}\x00",
    "with what nobody sees": lambda token: f"{token}\u200b",
    "huge": lambda token: token * 10_000,
    "its digest": lambda token: handlers._digest(token).hex(),
    "empty": lambda token: "",
    "a guess": lambda token: "A" * len(token),
    "the whole link": lambda token: f"http://127.0.0.1:8000/invitation#token={token}",
    "no text": lambda token: {"$ne": None},
}


@pytest.mark.parametrize("change", ALMOST.values(), ids=ALMOST)
async def test_what_is_almost_the_token_lets_nobody_in(client, token, sql, change):
    answer = await accept(client, change(token))
    assert answer.status_code in {403, 422}
    assert token not in answer.text
    assert await sql.fetchval("SELECT count(*) FROM users") == 1
    assert (await accept(client, token)).status_code == 204


ENDED = {
    "expired": "UPDATE invitations SET expires_at = now()",
    "revoked": "DELETE FROM invitations",
    "its admin is none": "UPDATE users SET role = 'member'",
    "its admin is deactivated": "UPDATE users SET is_active = false",
    "its admin is deleted": "DELETE FROM users",
}


@pytest.mark.parametrize("change", ENDED.values(), ids=ENDED)
async def test_a_token_ends_with_what_it_was_made_for(client, token, sql, change):
    await sql.execute(change)
    before = await sql.fetchval("SELECT count(*) FROM users")
    answer = await accept(client, token)
    assert (answer.status_code, answer.json()["message"]) == (403, handlers.NOT_GOOD)
    assert await sql.fetchval("SELECT count(*) FROM users") == before


async def test_a_token_is_good_once_and_no_key_brings_it_back(client, token):
    headers = {"Idempotency-Key": "the same"}
    body = ACCEPTED | {"token": token}
    answers = [
        await client.post("/invitations/acceptance", json=body, headers=headers) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [204, 403]


async def test_of_two_who_accept_at_once_one_joins(client, token, sql):
    names = [f"Carol no. {number}" for number in range(4)]
    answers = await asyncio.gather(*[accept(client, token, full_name=name) for name in names])
    assert sorted(answer.status_code for answer in answers) == [204, 403, 403, 403]
    won = [answer.status_code for answer in answers].index(204)
    joined = await sql.fetch("SELECT full_name FROM users WHERE email = $1", CAROL)
    assert [row["full_name"] for row in joined] == [names[won]]


async def test_an_invitation_that_ends_meanwhile_lets_nobody_in(client, token, sql):
    """The token has been looked at when its invitation expires."""
    async with sql.transaction():
        await sql.execute(ENDED["expired"])
        accepting = asyncio.create_task(accept(client, token))
        await asyncio.sleep(0.5)
    assert (await accepting).status_code == 403
    assert await sql.fetchval("SELECT count(*) FROM users WHERE email = $1", CAROL) == 0


async def test_the_latest_link_alone_is_good(client, admin, token, jobs, mails):
    invitation = (await admin.get("/invitations")).json()["items"][0]
    renewed = await admin.post(f"/invitations/{invitation['id']}/renewal")
    assert (renewed.status_code, renewed.json()["version"]) == (200, 2)
    assert renewed.json()["expires_at"] > invitation["expires_at"]
    assert (await accept(client, token)).status_code == 403  # at once
    await jobs.drain()
    assert (await accept(client, mails.token)).status_code == 204


async def test_a_mail_that_was_late_is_not_sent(admin, jobs, mails):
    invitation = (await invite(admin)).json()
    await admin.post(f"/invitations/{invitation['id']}/renewal")
    revoked = (await invite(admin, email="dora@example.com")).json()
    await admin.delete(f"/invitations/{revoked['id']}")
    assert await jobs.drain() == ["invitations.send_invitation"] * 3
    assert [mail["To"] for mail in mails.messages] == [CAROL]


@pytest.mark.parametrize("change", ENDED.values(), ids=ENDED)
async def test_a_link_that_would_be_dead_is_not_sent(admin, jobs, mails, sql, change):
    await invite(admin)
    await sql.execute(change)
    assert await jobs.drain() == ["invitations.send_invitation"]
    assert [*mails.messages] == []


async def test_an_expired_invitation_is_shown_and_can_be_renewed(client, admin, token, jobs, mails):
    later = datetime.now(UTC) + timedelta(days=8)
    invitation = (await admin.get("/invitations")).json()["items"][0]
    assert datetime.fromisoformat(invitation["expires_at"]) < later
    await admin.post(f"/invitations/{invitation['id']}/renewal")
    await jobs.drain()
    assert (await accept(client, mails.token)).status_code == 204


async def test_a_token_of_another_kind_is_none(client, admin, alice, token, jobs, mails):
    await client.post("/password-resets", json={"email": alice.email})
    await jobs.drain()
    if mails.token != token:  # a service without password resets has none
        assert (await accept(client, mails.token)).status_code == 403
        body = {"token": token, "password": "a new password"}
        answer = await client.post("/password-resets/completion", json=body)
        assert answer.status_code == 403


@pytest.mark.parametrize(
    "bad", [{"password": "qwerty123"}, {"password": " CAROL@example.com"}, {"full_name": " "}]
)
async def test_a_bad_account_is_refused_and_the_token_is_good_still(client, token, bad):
    assert (await accept(client, token, **bad)).status_code == 422
    for more in ({"role": "admin"}, {"email": "eve@example.com"}, {"is_active": True}):
        assert (await accept(client, token, **more)).status_code == 422
    assert (await accept(client, token)).status_code == 204


async def test_who_has_an_account_meanwhile_needs_no_other(client, token):
    body = ACCEPTED | {"email": CAROL}
    assert (await client.post("/users", json=body)).status_code == 201
    answer = await accept(client, token)
    assert (answer.status_code, answer.json()["fields"]) == (409, ["email"])


async def test_nothing_that_was_revoked_is_found(admin):
    invitation = (await invite(admin)).json()
    assert (await admin.delete(f"/invitations/{invitation['id']}")).status_code == 204
    for answer in (
        await admin.delete(f"/invitations/{invitation['id']}"),
        await admin.post(f"/invitations/{invitation['id']}/renewal"),
    ):
        assert answer.status_code == 404
