"""What happens to accounts and credentials is one line each, with address and target."""

import json

import pytest

from kernel.testing.asking import password_hash, running_app  # noqa: F401  # fixtures
from kernel.testing.callers import PASSWORD
from kernel.tests.app import PATHS

NEW = "another pass phrase"


@pytest.fixture(autouse=True)
def told(running_app, monkeypatch):  # noqa: F811  # the fixture
    """The lines of INFO, which the running app leaves out."""
    monkeypatch.setattr("kernel.identity.events.logger.level", 10)


@pytest.fixture
def events(log):
    """Those since it was last called: event, target, and who did it."""
    seen = 0

    def events():
        nonlocal seen
        lines = [line for line in log.lines() if line["message"] == "security event"]
        seen, new = len(lines), lines[seen:]
        assert {line["client"] for line in new} <= {"127.0.0.1"}
        assert all(line["request_id"] for line in new)
        return [(line["event"], line["target"], line["user_id"]) for line in new]

    return events


async def sign_in(client, password, email="alice@example.com"):
    answer = await client.post(
        PATHS["create_token"], data={"username": email, "password": password}
    )
    return answer.json()


async def test_signing_in_and_out_are_told(client, alice, events, sql):
    tokens = await sign_in(client, PASSWORD)
    assert events() == [("signed_in", 1, None)]
    await sign_in(client, "wrong")
    assert events() == [("wrong_password", 1, None)]
    await sign_in(client, PASSWORD, "nobody@example.com")
    [(event, target, _)] = events()
    assert (event, len(target)) == ("wrong_password", 16)
    await client.post(PATHS["sign_out"], json={"refresh_token": tokens["refresh_token"]})
    await client.post(PATHS["sign_out"], json={"refresh_token": tokens["refresh_token"]})
    assert events() == [("sign_in_ended", 1, None)]
    await sign_in(client, PASSWORD)
    newest = (await alice.get(PATHS["list_sign_ins"])).json()["items"][0]
    events()
    await alice.delete(f"{PATHS['list_sign_ins']}/{newest['id']}")
    assert events() == [("sign_in_ended", 1, 1)]


async def test_a_stolen_refresh_token_is_an_alarm(client, alice, events, log):
    body = {"refresh_token": (await sign_in(client, PASSWORD))["refresh_token"]}
    second = (await client.post(PATHS["refresh_token"], json=body)).json()
    await client.post(PATHS["refresh_token"], json={"refresh_token": second["refresh_token"]})
    events()
    for _ in range(2):
        await client.post(PATHS["refresh_token"], json=body)
    assert events() == [("refresh_token_reused", 1, None)]
    assert [line["level"] for line in log.lines() if line.get("event")][-1] == "WARNING"


async def test_who_is_throttled_is_an_alarm(client, alice, events, log, sql):
    await sign_in(client, "wrong")
    await sql.execute("UPDATE sign_in_attempts SET failures = 1000000")
    events()
    await sign_in(client, "wrong")
    assert events() == [("throttled", 1, None)]
    assert [line["level"] for line in log.lines() if line.get("event")][-1] == "WARNING"


async def test_changes_of_an_account_are_told_once_they_are_there(alice, bob, admin, events):
    change = {"password": NEW, "current_password": PASSWORD}
    email = {"email": "new@example.com", "current_password": NEW}
    url = f"/users/{bob.user_id}"
    key = (await alice.post("/keys", json={"name": "Robot"})).json()
    assert events() == [("key_made", 1, 1)]
    for caller, method, path, body, event, target in (
        (alice, "DELETE", f"/keys/{key['id']}", None, "key_deleted", 1),
        (alice, "PATCH", "/users/me", change, "password_changed", 1),
        (alice, "PATCH", "/users/me", email, "email_changed", 1),
        (admin, "PATCH", url, {"role": "admin"}, "role_changed", 2),
        (admin, "PATCH", url, {"is_active": False}, "activity_changed", 2),
        (admin, "DELETE", url, None, "user_deleted", 2),
    ):
        rehearsed = {"Prefer": "tx=rollback"}
        assert (await caller.request(method, path, json=body, headers=rehearsed)).is_success
        assert events() == []
        assert (await caller.request(method, path, json=body)).is_success
        assert events() == [(event, target, caller.user_id)]
    await alice.patch("/users/me", json={"full_name": "Alicia"})
    assert events() == []


async def test_no_line_has_an_address_of_e_mail_or_a_secret(client, alice, log):
    tokens = await sign_in(client, PASSWORD)
    await sign_in(client, "a wrong pass phrase")
    await sign_in(client, PASSWORD, "nobody@example.com")
    lines = json.dumps(log.lines())
    for secret in (PASSWORD, "a wrong pass", "@example.com", *map(str, tokens.values())):
        assert secret in ("bearer", "900") or secret not in lines
