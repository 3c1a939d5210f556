"""Guessing is bounded at every door, and shuts nobody out but who guesses."""

import asyncio
import threading
from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import SecretStr

from kernel.context import RequestContext, enter_context
from kernel.errors import TooManyRequests, Unavailable
from kernel.http.clients import UNKNOWN, normal_address
from kernel.identity import passwords, throttle
from kernel.identity.passwords import PasswordVault
from kernel.testing.callers import PASSWORD
from kernel.tests.app import PATHS
from kernel.tests.processes import PATIENCE

HOME, OFFICE, STRANGER = "192.0.2.1", "198.51.100.1", "203.0.113.1"
PENDING = "SELECT sum(pending) FROM sign_in_attempts"


@pytest.fixture
def at(app):
    """A client at an address."""

    @asynccontextmanager
    async def at(address):
        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client

    return at


async def sign_in(client, password=PASSWORD, email="alice@example.com", **headers):
    form = {"username": email, "password": password}
    return (await client.post(PATHS["create_token"], data=form, headers=headers)).status_code


async def change_password(caller, current, **headers):
    change = {"password": "a new password", "current_password": current}
    return (await caller.patch("/users/me", json=change, headers=headers)).status_code


@pytest.fixture
async def patient(serve):
    """A client of a service in which many hashes may take their time, on a busy machine."""
    async with serve(request_timeout=60) as client:
        yield client


@pytest.mark.parametrize("count", [10, 25])
async def test_right_passwords_at_once_all_pass(patient, alice, sql, count):
    statuses = await asyncio.gather(*[sign_in(patient) for _ in range(count)])
    assert statuses == [200] * count
    assert await sql.fetchval(PENDING) == 0


async def test_a_whole_office_signs_in_at_once(patient, sign_up, sql):
    people = [await sign_up(f"Person {number}") for number in range(15)]
    statuses = await asyncio.gather(*[sign_in(patient, email=each.email) for each in people])
    assert statuses == [200] * 15


async def test_a_current_password_is_guessed_no_more_often_than_at_sign_in(alice, client, sql):
    statuses = [await change_password(alice, f"wrong {n}") for n in range(6)]
    statuses += [await sign_in(client, f"wrong {n}") for n in range(4)]
    assert statuses == [403] * 6 + [401] * 4
    assert (await change_password(alice, PASSWORD), await sign_in(client)) == (429, 429)
    assert await sql.fetchval(PENDING) == 0


@pytest.mark.parametrize("given", [PASSWORD, "wrong"])
async def test_a_dry_run_counts_what_is_wrong_and_nothing_that_is_right(alice, sql, given):
    for _ in range(11):
        status = await change_password(alice, given, Prefer="tx=rollback")
    assert status == (200 if given == PASSWORD else 429)
    counted = await sql.fetchval("SELECT max(failures) FROM sign_in_attempts")
    assert counted == (0 if given == PASSWORD else 10)


async def test_no_stranger_locks_an_owner_out_of_where_the_owner_has_been(at, alice, serve, sql):
    async with at(HOME) as home, at(OFFICE) as office, at(STRANGER) as stranger:
        assert await sign_in(home) == 200
        assert [await sign_in(stranger, f"wrong {n}") for n in range(11)] == [401] * 10 + [429]
        assert (await sign_in(home), await sign_in(office)) == (200, 200)
        await sql.execute("UPDATE sign_in_attempts SET failures = 100")  # from many addresses
        assert await sign_in(stranger) == 429
        await sql.execute(
            "UPDATE sign_in_attempts SET failures = 0 WHERE failures = 100 "
            "AND succeeded_at IS NOT NULL"
        )
        assert (await sign_in(home), await sign_in(office)) == (200, 200)
        # Where the owner has never been, the account is locked now.
        async with at("192.0.2.77") as hotel:
            assert await sign_in(hotel) == 429


async def test_many_accounts_from_one_address_are_bounded_too(serve, alice):
    async with serve(sign_in_failures=1) as client:
        statuses = [await sign_in(client, "x", f"a{n}@example.com") for n in range(11)]
        assert statuses == [401] * 10 + [429]


async def test_no_connection_is_held_while_a_password_is_verified(app, alice, monkeypatch):
    resources, held = app.state.resources, []
    vault = resources.get(PasswordVault)
    verify = vault.verify

    async def watched(*given):
        held.append(resources.writer.in_use() + resources.primary.in_use())
        return await verify(*given)

    monkeypatch.setattr(vault, "verify", watched)
    assert (await change_password(alice, "wrong"), await sign_in(alice)) == (403, 200)
    assert held == [0, 0]


async def test_who_waits_for_attempts_under_way_is_told_to_come_back(
    client, alice, sql, monkeypatch
):
    monkeypatch.setattr(throttle, "WAITS", 1)
    assert await sign_in(client) == 200
    await sql.execute("UPDATE sign_in_attempts SET pending = 10")  # a worker that was killed
    answer = await client.post(
        PATHS["create_token"], data={"username": alice.email, "password": PASSWORD}
    )
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    await sql.execute("UPDATE sign_in_attempts SET since = since - interval '5 minutes'")
    assert await sign_in(client) == 200
    assert await sql.fetchval(PENDING) == 0


async def test_counts_outlive_a_new_secret(serve, alice, settings):
    async with serve() as before:
        for number in range(6):
            await sign_in(before, f"wrong {number}")
    new = SecretStr("new secret, 32 bytes or more of it")
    async with serve(jwt_secret=new, jwt_old_secret=settings.jwt_secret) as after:
        assert [await sign_in(after, f"wrong {n}") for n in range(5)] == [401] * 4 + [429]


@pytest.mark.parametrize(
    ("written", "address"),
    [
        (HOME, HOME),
        ("192.0.2.1:8080", HOME),
        ("::ffff:192.0.2.1", HOME),
        ("::FFFF:C000:0201", HOME),
        ("[::ffff:192.0.2.1]:8080", HOME),
        ("0:0:0:0:0:ffff:192.0.2.1", HOME),
        ("64:ff9b::192.0.2.1", HOME),
        (" 192.0.2.1 ", HOME),
        ("2001:DB8::0001", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%25eth0", "fe80::1"),
        *((junk, UNKNOWN) for junk in (
            "", "x", "192.0.2.1.5", "192.0.2.01", "192.0.2.1:", "192.0.2.1/24", "1:2", "[", "[]",
            "[x]:1", "%", "\u0661.2.3.4", "\x00", "-1", "2001:db8::1::", "testclient",
            "unix:", "9" * 10_000, "[" * 10_000, "<script>",
        )),
    ],
)  # fmt: skip
def test_an_address_has_one_form(written, address):
    assert normal_address(written) == address


@pytest.mark.parametrize(
    "forms",
    [
        ("::ffff:192.0.2.1", "192.0.2.1", "64:ff9b::192.0.2.1"),
        ("2001:db8::1", "2001:db8:0:0:ffff::7", "[2001:db8::9]:1"),
        ("junk", "", "more junk:1", "x" * 5000),
    ],
)
async def test_who_guesses_from_one_address_in_many_forms_is_one(app, at, alice, forms):
    statuses = []
    for number in range(12):
        async with at(forms[number % len(forms)]) as client:
            statuses.append(await sign_in(client, f"wrong {number}"))
    assert statuses == [401] * 10 + [429] * 2
    async with at("198.51.100.99") as innocent:
        assert await sign_in(innocent) == 200


async def test_the_access_line_has_the_clients_address(at, log):
    async with at("::ffff:192.0.2.1") as client:
        await client.get("/livez")
    (line,) = [each for each in log.lines() if each["message"] == "request"]
    assert line["client"] == "192.0.2.1"


@pytest.fixture
async def hashing(monkeypatch):
    """Whose passwords are verified, each for as long as the test likes."""
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 0.2)
    vault, may_end, begun = PasswordVault(), threading.Event(), []

    def match(name, _):
        begun.append(name)
        return may_end.wait(PATIENCE)

    monkeypatch.setattr(vault, "_matches", match)

    async def verify(name):
        enter_context(RequestContext(client=name))
        return await vault.verify(name, SecretStr(PASSWORD))

    yield begun, lambda name: asyncio.create_task(verify(name))
    may_end.set()


async def test_one_caller_has_half_of_the_threads_that_hash(hashing):
    begun, verify = hashing
    mallorys = [verify("mallory") for _ in range(3)]
    await asyncio.sleep(0.05)
    alices = verify("alice")
    await asyncio.sleep(0.05)
    assert begun == ["mallory", "alice"]
    bobs = verify("bob")
    with pytest.raises(Unavailable) as refused:
        await bobs
    assert refused.value.headers == {"Retry-After": "1"}
    for waiting in mallorys[1:]:
        with pytest.raises(TooManyRequests) as refused:
            await waiting
        assert refused.value.headers == {"Retry-After": "1"}
    assert not alices.done()
