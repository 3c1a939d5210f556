"""A database's URL names several servers: one that is away costs its timeout once."""

import asyncio
import socket
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from kernel.data.hosts import AWAY_SECONDS, Servers
from kernel.driver_errors import claim_error
from kernel.tests.test_outages import answer, refuse_password, say_nothing

TIMEOUT = 0.3


async def say_that_it_starts(reader, writer):
    await reader.read(1000)
    writer.write(b"N")  # no TLS
    await reader.read(1000)
    await answer(writer, b"57P03", b"the database system is starting up")


async def hang_up(reader, writer):
    writer.close()


class FakeServer:
    """How often somebody has connected, and where."""

    def __init__(self, speak):
        self.speak, self.visits, self.port = speak, 0, 0

    async def serve(self, reader, writer):
        self.visits += 1
        await self.speak(reader, writer)

    @asynccontextmanager
    async def listening(self):
        async with await asyncio.start_server(self.serve, "127.0.0.1", self.port) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self


@pytest.fixture
def behind(settings):
    """The URL of the tests' database, whose server is named behind others on these ports."""
    real = urlsplit(settings.database_url.get_secret_value())
    folder = quote(parse_qs(real.query)["host"][0], safe="")

    def behind(*ports, target="primary"):
        hosts = ",".join([*(f"127.0.0.1:{port}" for port in ports), folder])
        return f"postgresql://app@{hosts}{real.path}?target_session_attrs={target}"

    return behind


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.fixture
async def first():
    """Start a first server that says this, or nothing."""
    async with FakeServer(say_nothing).listening() as server:
        yield server


@pytest.mark.parametrize(
    "speak", [say_nothing, hang_up, say_that_it_starts], ids=["silent", "closing", "starting"]
)
@pytest.mark.parametrize("target", ["any", "primary", "read-write", "prefer-standby"])
async def test_a_server_that_is_away_costs_one_attempt(
    serve, behind, first, alice, log, speak, target
):
    first.speak = speak
    url = behind(first.port, target=target)
    async with serve(database_url=SecretStr(url), connect_timeout=TIMEOUT) as client:
        client.headers.update(alice.headers)
        for _ in range(3):
            assert (await client.get("/users/me")).status_code == 200
        assert (await client.post("/peelings", json={"title": "x"})).status_code == 201
        assert (await client.get("/readyz")).status_code == 200
        many = await asyncio.gather(*[client.get("/users/me") for _ in range(8)])
        assert {answer.status_code for answer in many} == {200}
    assert first.visits == 1
    [line] = log.lines("WARNING")
    assert line["message"] == "one of the database's servers fails"
    assert (line["hosts"], line["failures"]) == (f"127.0.0.1:{first.port}", 1)


async def test_a_server_that_refuses_is_passed_over(serve, behind, alice, free_port, log):
    async with serve(database_url=SecretStr(behind(free_port))) as client:
        client.headers.update(alice.headers)
        assert (await client.post("/peelings", json={"title": "x"})).status_code == 201
        assert (await client.get("/readyz")).status_code == 200
    [line] = log.lines("WARNING")
    assert line["error"] == "ConnectionRefusedError: Connection refused"


async def test_a_probe_that_loses_patience_looks_elsewhere_next(serve, behind, first):
    async with serve(database_url=SecretStr(behind(first.port)), connect_timeout=5) as client:
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/readyz")).status_code == 200
    assert first.visits == 1


async def test_a_server_that_refuses_the_caller_is_not_passed_over(serve, behind, first, log):
    """libpq's manual, 34.1.1.3: if authentication fails, the remaining hosts are not tried."""
    first.speak = refuse_password
    async with serve(database_url=SecretStr(behind(first.port))) as client:
        answer = await client.get("/users/me", headers={"X-API-Key": "a" * 40})
    assert (answer.status_code, answer.json()["reason"]) == (503, "unreachable")
    assert "28P01" in {line["sqlstate"] for line in log.lines("WARNING") if "sqlstate" in line}


async def test_each_server_that_is_away_has_its_own_time(settings, behind, first):
    async with FakeServer(say_nothing).listening() as second:
        url = behind(first.port, second.port)
        loop = asyncio.get_running_loop()
        began = loop.time()
        connection = await Servers(url).connect(timeout_seconds=TIMEOUT)
        await connection.close()
    assert 2 * TIMEOUT <= loop.time() - began < 3 * TIMEOUT


async def test_of_servers_that_are_all_away_the_last_one_is_told_and_each_is_logged_once(
    first, log
):
    servers = Servers(f"postgresql://u@127.0.0.1:{first.port},127.0.0.1:1/n")
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await servers.connect(timeout_seconds=TIMEOUT)
    hosts = [line["hosts"] for line in log.lines("WARNING")]
    assert hosts == [f"127.0.0.1:{first.port}", "127.0.0.1:1"]


async def test_a_server_that_is_not_what_is_wanted_is_not_away(behind, log, settings):
    """A standby is where it should be. (Of one server, listed twice.)"""
    url = settings.database_url.get_secret_value()
    folder = parse_qs(urlsplit(url).query)["host"][0]
    servers = Servers(
        f"postgresql://app@/{urlsplit(url).path[1:]}?host={folder},{folder}/"
        "&target_session_attrs=standby"
    )
    for _ in range(2):
        with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
            await servers.connect(timeout_seconds=TIMEOUT)
    assert log.lines("WARNING") == []


@pytest.mark.parametrize(("target", "later"), [("prefer-standby", 2), ("primary", 1), ("any", 1)])
async def test_a_server_that_was_away_is_tried_anew_where_it_may_be_better(
    behind, first, monkeypatch, target, later
):
    now = 1000.0
    monkeypatch.setattr("kernel.data.hosts.time.monotonic", lambda: now)
    servers = Servers(behind(first.port, target=target))

    async def visit():
        connection = await servers.connect(timeout_seconds=TIMEOUT)
        await connection.close()
        return first.visits

    assert [await visit() for _ in range(3)] == [1, 1, 1]
    now += AWAY_SECONDS
    assert [await visit() for _ in range(3)] == [later] * 3


async def time_out(*_):
    error = TimeoutError()
    claim_error(error, "SELECT 1")
    raise error


FROZEN = {
    "GET": ("kernel.data.reader.run_plan", "kernel.data.reader.execute"),
    "POST": ("kernel.data.unit_of_work.UnitOfWork._start",),
}


@pytest.mark.parametrize("method", FROZEN)
async def test_what_is_idle_on_a_frozen_server_is_closed(serve, alice, monkeypatch, method):
    """Or each of them would be waited for in its turn."""
    async with serve() as client:
        client.headers.update(alice.headers)
        resources = client._transport.app.state.resources
        pool = {"GET": resources.primary._connections, "POST": resources.writer._pools[0]}[method]

        async def request():
            body = {"title": "x"} if method == "POST" else None
            return await client.request(method, "/peelings", json=body)

        await asyncio.gather(*[request() for _ in range(5)])
        assert len(pool._idle) > 1
        for name in FROZEN[method]:
            monkeypatch.setattr(name, time_out)
        answer = await request()
        assert (answer.status_code, answer.json().get("reason")) == (503, "slow"), answer.text
        assert len(pool._idle) == 0
