"""Why the database cannot be had: the answer tells the reasons apart, the log tells the cause."""

import asyncio
import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import func
from sqlmodel import select

from kernel import reminders
from kernel.data.models import Dto
from kernel.errors import Unavailable
from kernel.http.dependencies import Reader, Session
from kernel.http.router import Router
from kernel.tests.app import account_body
from kernel.tests.processes import PATIENCE, Forwarder, until

KEY = {"X-API-Key": "a" * 40}
SLEEP = select(func.pg_sleep(5))


class Answer(Dto):
    text: str = ""


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


async def refuse_password(reader, writer):
    """A server that knows one answer: the password is wrong."""
    length = int.from_bytes(await reader.readexactly(4))
    if await reader.readexactly(length - 4) == (80877103).to_bytes(4):  # asks for TLS first
        writer.write(b"N")
        length = int.from_bytes(await reader.readexactly(4))
        await reader.readexactly(length - 4)
    await answer(writer, b"28P01", b'password authentication failed for user "app"')


async def refuse_for_want_of_slots(reader, writer):
    length = int.from_bytes(await reader.readexactly(4))
    if await reader.readexactly(length - 4) == (80877103).to_bytes(4):
        writer.write(b"N")
        length = int.from_bytes(await reader.readexactly(4))
        await reader.readexactly(length - 4)
    await answer(writer, b"53300", b"sorry, too many clients already")


async def answer(writer, code, message):
    fields = b"SFATAL\0VFATAL\0C" + code + b"\0M" + message + b"\0\0"
    writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
    await writer.drain()
    writer.close()


async def say_nothing(reader, writer):
    await reader.read()
    writer.close()


@asynccontextmanager
async def database_that_is(why, settings, free_port):
    """The URL of a database that cannot be had."""
    url = urlsplit(settings.database_url.get_secret_value())
    speak = {
        "wrong password": refuse_password,
        "full": refuse_for_want_of_slots,
        "silent": say_nothing,
    }.get(why)
    if why == "unknown":
        yield urlunsplit(url._replace(path="/no_such_database"))
    elif why == "refusing":
        yield f"postgresql://app:wrong-secret@127.0.0.1:{free_port}/app"
    else:
        async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            yield f"postgresql://app:wrong-secret@127.0.0.1:{port}/app"


CAROL = {"email": "carol@example.com", "full_name": "Carol", "password": "correct horse battery"}
CAUSES = {
    "wrong password": (
        "28P01",
        'InvalidPasswordError 28P01: password authentication failed for user "app"',
    ),
    "unknown": (
        "3D000",
        'InvalidCatalogNameError 3D000: database "no_such_database" does not exist',
    ),
    "refusing": (None, "ConnectionRefusedError: Connection refused"),
    "full": ("53300", "TooManyConnectionsError 53300: sorry, too many clients already"),
    "silent": (None, "TimeoutError"),
}


@pytest.mark.parametrize("why", CAUSES)
async def test_the_cause_of_an_outage_is_logged_once_for_each_pool(
    serve, settings, log, free_port, why
):
    async with (
        database_that_is(why, settings, free_port) as url,
        serve(database_url=SecretStr(url), connect_timeout=0.2, pool_timeout=0.3) as client,
    ):
        answers = [await client.get("/users/me", headers=KEY) for _ in range(10)]
        account = account_body(**CAROL)
        answers += [await client.post("/users", json=account) for _ in range(5)]
        answers += [await client.get("/readyz") for _ in range(5)]
    for each in answers:
        assert (each.status_code, each.json()["reason"]) == (503, "unreachable")
        assert "retry-after" in each.headers
    lines = log.lines("WARNING", "ERROR")
    assert sorted(line["pool"] for line in lines) == ["probe", "reader", "writer"]
    code, cause = CAUSES[why]
    for line in lines:
        assert line["message"] == "the database cannot be reached"
        assert (line["sqlstate"], line["error"]) == (code, cause)
        assert (line["reason"], line["failures"]) == ("unreachable", 1)
        assert ("127.0.0.1" in line["hosts"]) == (why != "unknown")
    assert "wrong-secret" not in str(log.lines())


async def test_an_outage_that_goes_on_is_told_again_with_a_count(
    serve, log, free_port, monkeypatch
):
    now = 1000.0
    monkeypatch.setattr(reminders, "time", SimpleNamespace(monotonic=lambda: now))
    url = f"postgresql://app@127.0.0.1:{free_port}/app"
    async with serve(database_url=SecretStr(url)) as client:
        for _ in range(5):
            await client.get("/users/me", headers=KEY)
        now += reminders.REMINDER_SECONDS
        await client.get("/users/me", headers=KEY)
    assert [line["failures"] for line in log.lines("WARNING")] == [1, 5]


def sleepers():
    router = Router(prefix="/peels", tags=["peels"])

    @router.get("/sleep")
    async def read(reader: Reader) -> Answer:
        await reader.fetch(SLEEP)
        return Answer()

    @router.post("/sleep")
    async def write(session: Session) -> Answer:
        await session.fetch(SLEEP)
        return Answer()

    @router.get("/own")
    async def own() -> Answer:
        raise Unavailable("the oven is cold", reason="oven")

    return router


@pytest.mark.parametrize(("method", "pool"), [("GET", "reader"), ("POST", "writer")])
async def test_a_pool_that_is_used_up_and_a_query_that_takes_too_long_are_two_things(
    mount, log, method, pool
):
    limits = {"pool_size": 1, "max_overflow": 0, "read_pool_size": 1}
    async with mount(
        sleepers(),
        **limits,
        pool_timeout=0.4,
        statement_timeout=1,
        connect_timeout=5,
        slow_request=9,
    ) as client:
        answers = await asyncio.gather(*[client.request(method, "/peels/sleep") for _ in range(5)])
    reasons = sorted(answer.json()["reason"] for answer in answers)
    assert {answer.status_code for answer in answers} == {503}
    assert reasons == [*["no_connection"] * 4, "slow"]
    told = [(line["reason"], line["pool"], line["sqlstate"]) for line in log.lines("WARNING")]
    assert sorted(told) == [("no_connection", pool, None), ("slow", pool, "57014")]


async def test_the_end_of_an_outage_is_told(mount, settings, log, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(reminders, "time", SimpleNamespace(monotonic=lambda: now))
    url = urlsplit(settings.database_url.get_secret_value())
    async with Forwarder(f"{parse_qs(url.query)['host'][0]}/.s.PGSQL.5432") as way:
        dead = f"postgresql://app@127.0.0.1:{way.port}{url.path}?sslmode=disable"
        async with mount(sleepers(), database_url=SecretStr(dead)) as client:
            assert (await client.get("/users/me", headers=KEY)).status_code == 503
            now += 5
            await way.open()
            assert (await client.get("/users/me", headers=KEY)).status_code == 401
    messages = [line["message"] for line in log.lines("WARNING")]
    assert messages == ["the database cannot be reached", "the database can be used again"]


async def test_connections_that_died_idle_are_no_outage(mount, end_connections, alice, log):
    async with mount(sleepers()) as client:
        client.headers.update(alice.headers)
        resources = client.app.state.resources
        pools = [resources.writer._pools[0], resources.reader._connections]
        for _ in range(3):
            await asyncio.gather(*(client.get("/peelings") for _ in range(5)))
            assert (await client.post("/peelings", json={"title": "Soup"})).status_code == 201
            await end_connections()
            await until(lambda: are_closed(*pools), PATIENCE)
        answers = await asyncio.gather(*(client.get("/peelings") for _ in range(5)))
        assert {answer.status_code for answer in answers} == {200}
        assert (await client.post("/peelings", json={"title": "Soup"})).status_code == 201
    assert log.lines("WARNING", "ERROR") == []


async def are_closed(*pools):
    """Whether those that are idle have noticed that the server has closed them."""
    return all(link.raw.is_closed() for pool in pools for link, _ in pool._idle._waiting)


async def test_a_failure_that_code_raises_as_an_answer_is_logged_now_and_then(mount, log):
    async with mount(sleepers()) as client:
        answers = [await client.get("/peels/own") for _ in range(5)]
    assert {answer.status_code for answer in answers} == {503}
    [line] = log.lines("WARNING")
    assert (line["message"], line["status"]) == ("the oven is cold", 503)


async def test_a_pool_that_waits_for_a_silent_server_is_told_as_unreachable(serve, settings, log):
    """A place in the pool that is taken by who waits for the server is no sign of load."""
    async with database_that_is("silent", settings, 0) as url:
        changes = {"read_pool_size": 2, "pool_timeout": 0.1, "connect_timeout": 0.5}
        async with serve(database_url=SecretStr(url), **changes) as client:
            answers = await asyncio.gather(
                *[client.get("/users/me", headers=KEY) for _ in range(10)]
            )
    assert {answer.json()["reason"] for answer in answers} == {"unreachable"}
    assert {line["reason"] for line in log.lines("WARNING")} == {"unreachable"}


async def test_reads_go_to_the_primary_while_the_replica_is_silent(serve, settings, alice):
    async with database_that_is("silent", settings, 0) as url:
        changes = {"pool_timeout": 0.3, "connect_timeout": 0.6, "read_pool_size": 3}
        async with serve(read_database_url=SecretStr(url), **changes) as client:
            client.headers.update(alice.headers)
            answers = await asyncio.gather(*[client.get("/users/me") for _ in range(20)])
            assert {answer.status_code for answer in answers} == {200}


async def test_a_read_that_waits_for_a_lock_leaves_its_cause(mount, alice, sql, database_url, log):
    other = await asyncpg.connect(database_url)
    async with serve_peelings(mount, alice) as client, other.transaction():
        await other.execute("LOCK TABLE peelings IN ACCESS EXCLUSIVE MODE")
        answer = await client.get("/peelings")
    await other.close()
    assert (answer.status_code, answer.json()["reason"]) == (503, "slow")
    [line] = log.lines("WARNING")
    assert (line["reason"], line["sqlstate"]) == ("slow", "55P03")


@asynccontextmanager
async def serve_peelings(mount, alice):
    async with mount(sleepers(), lock_timeout=0.05) as client:
        client.headers.update(alice.headers)
        yield client


async def test_reads_go_to_the_primary_while_the_replica_is_away(
    serve, alice, log, free_port, monkeypatch
):
    dead = SecretStr(f"postgresql://app@127.0.0.1:{free_port}/app")
    async with serve(read_database_url=dead) as client:
        client.headers.update(alice.headers)
        for _ in range(3):
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/users/me")).status_code == 200
        assert (await client.get("/peelings")).json()["items"] == []
    [line] = log.lines("WARNING")
    assert (line["pool"], line["error"]) == (
        "replica",
        "ConnectionRefusedError: Connection refused",
    )
