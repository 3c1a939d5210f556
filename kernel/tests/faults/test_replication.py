"""A primary and its standby: which server each connection goes to, and what follows a failover."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack

import pytest
from pydantic import ValidationError
from sqlalchemy import Integer, func
from sqlmodel import select

from kernel.data.independent import open_session
from kernel.database_urls import TARGETS
from kernel.http.dependencies import Reader
from kernel.http.router import Router
from kernel.tests.app import migrate
from kernel.tests.clusters import Cluster, served, sign_in, sign_up, url_of
from kernel.tests.processes import until

pytestmark = pytest.mark.slow(seconds=15)

HERE = select(func.inet_server_port(type_=Integer).label("port"))
LAG = "3s"


@pytest.fixture(scope="module")
async def primary(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("primary") / "pg").init().start()
    cluster.sql("CREATE DATABASE app")
    await migrate(cluster.url("app"))
    yield cluster
    cluster.stop()


@pytest.fixture
def clone(primary, tmp_path_factory):
    """Make a standby of a server, the primary unless said."""
    made = []

    def clone(of=primary, **settings):
        folder = tmp_path_factory.mktemp("standby") / "pg"
        made.append(Cluster(folder, **settings).clone(of).start())
        return made[-1]

    yield clone
    for cluster in made:
        cluster.stop()


async def ports(client):
    """Where each of the service's pools goes."""
    resources = client.app.state.resources
    async with open_session(client.app) as session:
        [[writer]] = await session.fetch(HERE)
    [[reader]] = await resources.primary.fetch(HERE)
    [[probe]] = await resources.schema.pool.fetch(HERE)
    [[read]] = await resources.reader.fetch(HERE)
    return {"writer": writer, "primary": reader, "probe": probe, "reader": read}


async def test_each_pool_goes_where_its_url_says(primary, clone):
    """Every value of target_session_attrs, for the database and for a replica, with one server and
    with two in either order: it works, or the start is refused."""
    standby = clone()
    servers = {
        "primary": [primary],
        "primary,standby": [primary, standby],
        "standby,primary": [standby, primary],
    }
    found, expected = {}, {}
    for target in TARGETS:
        for name, hosts in servers.items():
            found["database", target, name] = await _of_database(url_of(*hosts, target=target))
            expected["database", target, name] = _expected_of_database(target, len(hosts), primary)
        for name, hosts in {**servers, "standby": [standby]}.items():
            url = url_of(*hosts, target=target)
            async with served(url_of(primary), url) as client:
                found["replica", target, name] = (await ports(client))["reader"]
            wanted = _expected_of_replica(target, hosts, primary, standby)
            expected["replica", target, name] = wanted.port
    assert found == expected


async def _of_database(url):
    try:
        async with served(url) as client:
            assert (await client.get("/readyz")).status_code == 200
            return set((await ports(client)).values())
    except ValidationError as error:
        return "refused" if "target_session_attrs should be" in str(error) else error


def _expected_of_database(target, hosts, primary):
    if target in {"standby", "read-only"} or (hosts > 1 and target == "prefer-standby"):
        return "refused"
    return {primary.port}


def _expected_of_replica(target, hosts, primary, standby):
    """Where no server is what is asked for, reads go to the primary."""
    if target == "any" or (len(hosts) == 1 and target == "read-only"):
        return hosts[0]
    if target in {"standby", "read-only", "prefer-standby"} and standby in hosts:
        return standby
    return primary


async def test_writes_go_on_after_a_failover_and_after_the_next(primary, clone):
    """A dead primary, and then one whose machine is frozen."""
    standby = clone()
    both = [standby, primary]
    async with AsyncExitStack() as stack:
        clients = {}
        for target in ("any", "primary", "read-write"):
            url = url_of(*both, target=target)
            clients[target] = await stack.enter_async_context(
                served(url, statement_timeout=1.0, connect_timeout=1.0)
            )
            await sign_up(clients[target], f"failover-{target}")
            for _ in range(3):
                assert await _writes(clients[target])
        await _caught_up(primary, standby)
        primary.kill()
        for client in clients.values():
            assert not await _writes(client)
        resumed = await _resumed_after(standby, clients.values())
        assert max(resumed.values()) <= 5, resumed
        assert all([await _reads(client) for client in clients.values()])

        primary.demote(standby)
        await _caught_up(standby, primary)
        standby.signal(signal.SIGSTOP)
        resumed = await _resumed_after(primary, clients.values())
        standby.stop()
        assert max(resumed.values()) <= 5, resumed
        assert all([await _reads(client) for client in clients.values()])


@pytest.fixture
def let_write():
    """Let a server take writes or not, by its own setting."""
    servers = []

    async def let_write(server, allowed):
        servers.append(server)
        value = "off" if allowed else "on"
        server.sql(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        server.sql("SELECT pg_reload_conf()")

        async def is_so():
            return server.sql("SHOW default_transaction_read_only") == value

        await until(is_so, 5)

    yield let_write
    for server in servers:
        server.sql("ALTER SYSTEM RESET default_transaction_read_only")
        server.sql("SELECT pg_reload_conf()")


async def test_of_two_primaries_the_one_that_takes_writes_is_meant(primary, clone, let_write):
    """As when a service is moved by logical replication: nothing is left behind on the old one."""
    async with served(url_of(primary)) as client:
        await sign_up(client, "moved")
    second = clone()
    second.promote()
    await let_write(second, False)
    replica = url_of(primary, second, target="read-only")
    for hosts in ((primary, second), (second, primary)):
        await let_write(primary, True)
        await let_write(second, False)
        async with served(url_of(*hosts, target="read-write"), replica) as client:
            await sign_in(client, "moved")
            first = dict.fromkeys(("writer", "primary", "probe"), primary.port)
            assert await ports(client) == first | {"reader": second.port}
            await let_write(primary, False)
            await let_write(second, True)
            assert await _writes(client)  # refused once, and tried again inside
            assert (await client.get("/readyz")).status_code == 200
            found = await ports(client)
            assert {found[name] for name in first} == {second.port}


@pytest.mark.parametrize("target", ["any", "primary", "read-write", "prefer-standby"])
async def test_a_server_that_stops_taking_writes_is_not_ready_until_it_does(
    primary, let_write, target
):
    async with served(url_of(primary, target=target)) as client:
        await sign_up(client, f"settings-{target}")
        assert await _writes(client)
        await let_write(primary, False)
        refused = await client.post("/peelings", json={"title": "x"})
        assert refused.status_code == 503
        not_ready = await client.get("/readyz")
        assert (not_ready.status_code, await _reads(client)) == (503, True)
        await let_write(primary, True)
        assert await _writes(client)
        assert (await client.get("/readyz")).status_code == 200


async def _writes(client):
    answer = await client.post("/peelings", json={"title": "x"})
    assert answer.status_code in {201, 503}, answer.text
    return answer.status_code == 201


async def _reads(client):
    return (await client.get("/peelings")).status_code == 200


async def _resumed_after(standby, clients):
    """Seconds from the promotion to the first write of each client."""
    await asyncio.to_thread(standby.promote)
    began = time.monotonic()

    async def resumed(client):
        await until(lambda: _writes(client), 20)
        return time.monotonic() - began

    return dict(enumerate(await asyncio.gather(*map(resumed, clients))))


async def _caught_up(primary, standby):
    lsn = primary.sql("SELECT pg_current_wal_lsn()")
    asked = f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'"

    async def caught_up():
        return await asyncio.to_thread(standby.sql, asked) == "t"

    await until(caught_up, 10)


def reading_in_a_write():
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/here")
    async def here(reader: Reader) -> dict[str, int]:
        [[port]] = await reader.fetch(HERE)
        return {"port": port}

    return router


async def test_a_replica_that_lags_is_asked_for_no_identity_and_for_no_news(primary, clone):
    standby = clone(recovery_min_apply_delay=LAG)
    url, replica = url_of(primary), url_of(standby)
    async with served(url, replica, router=reading_in_a_write()) as client:
        await sign_up(client, "lag")
        made = await client.post("/peelings", json={"title": "new"})
        place = f"/peelings/{made.json()['id']}"
        # Signed in by a row that the replica does not have yet, nor the other one.
        assert (await client.get("/users/me")).status_code in {200, 404}
        assert (await client.get(place)).status_code == 404
        news = await client.get(place, headers={"Cache-Control": "max-age=0, No-Cache"})
        assert (news.status_code, news.json()) == (200, made.json())
        assert (await client.get(place, headers={"Cache-Control": "no-store"})).status_code == 404
        assert (await client.post("/peels/here")).json() == {"port": primary.port}
        assert client.app.state.resources.reader.diverted == 0

        async def has_arrived():
            return (await client.get(place)).status_code == 200

        await until(has_arrived, 10)
        primary.sql("UPDATE users SET is_active = false WHERE email = 'lag@example.com'", "app")
        assert (await client.get(place)).status_code == 401
