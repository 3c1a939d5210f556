"""What ends is over, whoever races it: attacks on accounts, on a service whose hashes are cheap."""

import asyncio

import pytest

from kernel.testing.asking import password_hash, running_app  # noqa: F401  # fixtures
from kernel.testing.callers import PASSWORD

NEW = "another pass phrase"
EMAIL = "alice@example.com"


async def sign_in(client, password=PASSWORD, email=EMAIL, **headers):
    form = {"username": email, "password": password}
    return await client.post("/auth/token", data=form, headers=headers)


async def refresh(client, token):
    return await client.post("/auth/refresh", json={"refresh_token": token})


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


@pytest.mark.parametrize("way", ["by refreshing", "by signing in"])
async def test_no_thief_outlives_a_change_of_the_password(client, alice, way):
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
        old, new = new, old


@pytest.mark.parametrize("rounds", [50, pytest.param(300, marks=pytest.mark.slow)])
async def test_no_refresh_outlives_a_logout_that_it_raced(client, alice, sql, rounds):
    met = 0
    for round_ in range(rounds):
        token = (await sign_in(client)).json()["refresh_token"]

        async def leave(token=token, seconds=0.004 * (round_ % 50) / 50):
            await asyncio.sleep(seconds)
            return await client.post("/auth/logout", json={"refresh_token": token})

        refreshed, left = await asyncio.gather(refresh(client, token), leave())
        assert left.status_code == 204
        if refreshed.status_code == 200:
            met += 1
            assert await status_of_me(client, refreshed.json()) == 401
            again = await refresh(client, refreshed.json()["refresh_token"])
            assert again.status_code == 401
    assert met, "no refresh came before its logout"
    assert await sql.fetchval("SELECT count(*) FROM refresh_tokens") == 1  # Alice's own


async def test_no_key_of_a_thief_outlives_a_change_of_the_password(client, alice, sql):
    old, new = PASSWORD, NEW
    for round_ in range(10):
        thief = (await sign_in(client, old)).json()
        headers = {"Authorization": f"Bearer {thief['access_token']}"}

        async def make(headers=headers):
            while (await client.post("/keys", json={"name": "K"}, headers=headers)).is_success:
                pass

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
    monkeypatch.setattr(resources, "reader", type("Replica", (), {"fetch": fail, "first": fail})())
    tokens = await sign_in(client)
    assert tokens.status_code == 200
    bearer = {"Authorization": f"Bearer {tokens.json()['access_token']}"}
    assert (await client.get("/auth/sign-ins", headers=bearer)).status_code == 200
    assert (await refresh(client, tokens.json()["refresh_token"])).status_code == 200
