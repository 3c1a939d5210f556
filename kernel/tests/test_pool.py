"""Connections: who gets one, in which order, and that none is lost."""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from itertools import count
from types import SimpleNamespace

import httpx
import pytest
from sqlmodel import select

from kernel.context import RequestContext, enter_context
from kernel.data import idle
from kernel.data.pool import Pool
from kernel.driver_errors import PoolTimeout, ShareTimeout
from kernel.http.dependencies import Reader, Session
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.tests.peelings.models import Peeling
from kernel.tests.processes import PATIENCE, until

IN_TRANSACTION = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in%'
"""


class Connections:
    """What a pool makes and closes."""

    def __init__(self):
        self.numbers = count(1)
        self.open = set()
        self.closing = asyncio.Event()
        self.closing.set()

    async def connect(self):
        await asyncio.sleep(0)
        number = next(self.numbers)
        self.open.add(number)
        return number

    async def close(self, number):
        await self.closing.wait()
        self.open.remove(number)

    def pool(self, size=2, keep=2, timeout=5.0, **options):
        return Pool(self.connect, self.close, size=size, keep=keep, timeout=timeout, **options)


async def test_the_last_connection_used_is_the_next_one():
    pool = Connections().pool()
    first, second = await pool.take(), await pool.take()
    pool.give_back(first)
    pool.give_back(second)
    assert await pool.take() == second
    assert pool.in_use() == 1


async def test_who_has_waited_longest_is_next_and_no_newcomer_is_before_them():
    pool = Connections().pool(size=1)
    served = []

    async def work(name):
        connection = await pool.take()
        served.append(name)
        await asyncio.sleep(0)
        pool.give_back(connection)

    held = await pool.take()
    waiting = [asyncio.create_task(work(n)) for n in range(5)]
    await asyncio.sleep(0)
    pool.give_back(held)
    newcomer = asyncio.create_task(work("newcomer"))
    await asyncio.gather(*waiting, newcomer)
    assert served == [0, 1, 2, 3, 4, "newcomer"]


async def test_who_waits_too_long_is_told_and_takes_nothing():
    pool = Connections().pool(size=1, timeout=0.01)
    held = await pool.take()
    with pytest.raises(TimeoutError):
        await pool.take()
    pool.give_back(held)
    assert pool.in_use() == 0
    assert await pool.take() == held


async def test_a_turn_that_nobody_takes_any_more_goes_to_the_next():
    pool = Connections().pool(size=1)
    held = await pool.take()
    first, second = [asyncio.create_task(pool.take()) for _ in range(2)]
    await asyncio.sleep(0)
    pool.give_back(held)
    first.cancel()  # at the very moment when it is its turn
    assert await second == held


async def test_a_place_is_free_once_its_connection_is_closed():
    connections = Connections()
    pool = connections.pool(size=1)
    connections.closing.clear()
    pool.drop(await pool.take())
    waiting = asyncio.create_task(pool.take())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    connections.closing.set()
    assert await waiting == 2
    assert connections.open == {2}


async def test_a_connection_that_cannot_be_made_leaves_its_place():
    connections = Connections()
    pool = connections.pool(size=1)

    async def refuse():
        raise ConnectionRefusedError

    pool._connect = refuse
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await pool.take()
    pool._connect = connections.connect
    assert await pool.take() == 1


async def test_what_is_beyond_those_to_keep_is_closed_when_it_has_been_idle_for_a_while():
    connections = Connections()
    pool = connections.pool(size=5, keep=1, idle_seconds=0.1)
    taken = [await pool.take() for _ in range(5)]
    for each in taken:
        pool.give_back(each)
    assert len(connections.open) == 5
    for _ in range(4):  # two are in use again and again, and stay
        await asyncio.sleep(0.05)
        first, second = await pool.take(), await pool.take()
        pool.give_back(first)
        pool.give_back(second)
    assert connections.open == {4, 5}
    await until(lambda: is_left(connections, 1), 2)
    await pool.close()
    assert connections.open == set()


async def test_a_connection_is_closed_at_its_age_when_nobody_uses_it(monkeypatch):
    connections, now = Connections(), 1000.0
    monkeypatch.setattr(idle, "time", SimpleNamespace(monotonic=lambda: now))
    pool = connections.pool(size=3, max_age=100, idle_seconds=0.02)
    used, kept, last = [await pool.take() for _ in range(3)]
    pool.give_back(last)
    now += 89
    pool.give_back(kept)
    await asyncio.sleep(0.05)
    assert connections.open == {used, kept, last}  # none is old enough
    now += 22
    assert used in connections.open  # it is in use
    await until(lambda: is_left(connections, 1), 2)
    pool.give_back(used)
    assert await pool.take() == 4  # not the one that was just given back
    assert connections.open == {4}


async def test_the_ages_of_connections_differ_by_a_fifth():
    pool = Connections().pool(size=100, max_age=1000)
    ages = [pool._idle._expiry[await pool.take()] - time.monotonic() for _ in range(100)]
    assert 890 < min(ages) < 950
    assert 1050 < max(ages) < 1110


async def test_what_has_died_while_it_lay_idle_is_no_longer_given():
    connections = Connections()
    dead = set()
    pool = connections.pool(size=3, is_lost=dead.__contains__)
    first, second, third = [await pool.take() for _ in range(3)]
    for each in (first, second, third):
        pool.give_back(each)
    dead |= {second, third}
    assert await pool.take() == first
    await until(lambda: is_left(connections, 1), 2)


# A server that takes no more connections.


class FullServer(Connections):
    """A server with so many places, or none while it is `down`, which counts what it refuses."""

    def __init__(self, places):
        super().__init__()
        self.places, self.refused, self.at_once, self.most_at_once = places, 0, 0, 0

    async def connect(self):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if len(self.open) >= self.places:
            self.refused += 1
            raise ConnectionRefusedError
        return await super().connect()


async def work(pool, times=1):
    """Use a connection now and then, as requests do."""
    for _ in range(times):
        connection = await pool.take()
        await asyncio.sleep(0.001)
        pool.give_back(connection)


async def test_who_is_refused_waits_for_a_connection_that_there_is():
    server = FullServer(places=3)
    pool = server.pool(size=20, keep=20)
    async with asyncio.timeout(5):
        await asyncio.gather(*(work(pool, times=50) for _ in range(40)))
    assert len(server.open) == 3
    assert 1 <= server.refused <= 10
    assert (pool.in_use(), pool._openings.connecting, pool._openings.live) == (0, 0, 3)


async def test_attempts_to_connect_are_at_most_one_more_than_there_are_connections():
    server = FullServer(places=100)
    pool = server.pool(size=64)
    held = [asyncio.create_task(pool.take()) for _ in range(64)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert server.at_once <= 1
    await asyncio.gather(*held)
    assert server.most_at_once <= 33


async def test_without_any_connection_a_pool_makes_a_few_attempts_a_second():
    server = FullServer(places=0)
    pool = server.pool(size=20, timeout=0.3)
    began, failed = time.monotonic(), 0
    while time.monotonic() - began < 2:
        results = await asyncio.gather(*(work(pool) for _ in range(10)), return_exceptions=True)
        failed += sum(isinstance(each, ConnectionRefusedError | PoolTimeout) for each in results)
        await asyncio.sleep(0.005)
    assert failed > 300  # which fail at once, after a while
    assert 4 <= server.refused <= 12


async def test_a_short_outage_is_waited_for():
    server = FullServer(places=0)
    pool = server.pool(size=4, timeout=1)
    with pytest.raises(ConnectionRefusedError):
        await pool.take()  # the first attempt says at once that there is nobody
    waiting = [asyncio.create_task(work(pool)) for _ in range(10)]
    await asyncio.sleep(0)
    server.places = 4
    async with asyncio.timeout(0.5):
        await asyncio.gather(*waiting)


async def test_who_waits_in_an_outage_is_told_its_cause():
    server = FullServer(places=0)
    pool = server.pool(size=4, timeout=0.01)
    with pytest.raises(ConnectionRefusedError):
        await pool.take()
    with pytest.raises(PoolTimeout) as refused:
        await pool.take()
    assert refused.value.is_connecting
    assert isinstance(refused.value.__cause__, ConnectionRefusedError)


async def test_the_last_places_of_a_server_are_for_pools_that_have_next_to_none():
    server = Connections()

    def is_scarce(_):
        return len(server.open) > 6

    first = server.pool(size=10, keep=10, is_too_many=is_scarce)
    second = server.pool(size=10, keep=10, is_too_many=is_scarce)
    await asyncio.gather(*(work(first, times=20) for _ in range(10)))
    assert first._openings.live == len(server.open) == 6
    await asyncio.gather(*(work(second, times=20) for _ in range(10)))
    assert (first._openings.live, second._openings.live) == (6, 2)
    assert (second.in_use(), second._turns._held) == (0, {})


async def test_a_pool_that_has_lost_its_last_connection_tries_at_once():
    server = FullServer(places=1)
    pool = server.pool(size=4, timeout=2)
    held = await pool.take()
    waiting = asyncio.create_task(pool.take())

    async def is_refused_again_and_again():
        return server.refused == 5

    await until(is_refused_again_and_again, 5)
    pool.drop(held)
    async with asyncio.timeout(0.1):
        assert await waiting == 2


async def test_what_is_given_back_after_the_end_is_closed():
    connections = Connections()
    pool = connections.pool()
    held = await pool.take()
    await pool.close()
    pool.give_back(held)
    await until(lambda: is_left(connections, 0), 2)


async def is_left(connections, count):
    return len(connections.open) == count


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_a_request_that_is_given_up_leaves_nothing_behind(app, sql, alice, method):
    path = f"/peelings/{(await alice.post('/peelings', json={'title': 'Soup'})).json()['id']}"
    url = "/peelings" if method == "POST" else path
    body = None if method == "GET" else {"title": "Stew"}

    async def nothing_is_left():
        held = app.state.resources.writer.in_use() + app.state.resources.reader.in_use()
        return held + await sql.fetchval(IN_TRANSACTION) == 0

    for steps in range(40):
        request = asyncio.create_task(alice.request(method, url, json=body))
        for _ in range(steps):
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    await until(nothing_is_left, 2)
    assert (await alice.get(path)).status_code == 200


# What one caller may have.


def caller(name):
    """Whose work this task's is, from here on."""
    enter_context(RequestContext(client=name))


async def held_by(pool, name, number=1):
    """Connections of the caller."""

    async def take():
        caller(name)
        return [await pool.take() for _ in range(number)]

    return await asyncio.create_task(take())


async def test_one_caller_has_half_of_the_connections_and_others_need_not_wait():
    pool = Connections().pool(size=4, timeout=0.05)
    await held_by(pool, "mallory", 2)
    with pytest.raises(ShareTimeout):
        await held_by(pool, "mallory")
    assert (pool.in_use(), pool._turns._waiting) == (2, {})
    await held_by(pool, "alice", 2)
    with pytest.raises(PoolTimeout) as refused:
        await held_by(pool, "bob")
    assert not isinstance(refused.value, ShareTimeout)


async def test_what_a_caller_gives_back_is_for_its_own_who_wait():
    pool = Connections().pool(size=4)
    first, _ = await held_by(pool, "mallory", 2)
    waiting = asyncio.create_task(held_by(pool, "mallory"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    pool.give_back(first)
    assert await waiting == [first]


async def test_callers_take_turns():
    pool = Connections().pool(size=2, timeout=5)
    (one,), (two,) = await held_by(pool, "x"), await held_by(pool, "y")
    served = []

    async def work(name):
        caller(name)
        connection = await pool.take()
        served.append(name)
        await asyncio.sleep(0)
        pool.give_back(connection)

    work_ahead = [asyncio.create_task(work(name)) for name in ("a", "a", "a", "b", "c")]
    await asyncio.sleep(0)
    pool.give_back(one)
    await asyncio.gather(*work_ahead)
    pool.give_back(two)
    assert served == ["a", "b", "c", "a", "a"]


async def test_work_that_is_no_requests_has_no_share():
    pool = Connections().pool(size=4, timeout=0.05)
    assert len({await pool.take() for _ in range(4)}) == 4


async def test_a_place_counts_for_its_caller_until_it_is_free():
    connections = Connections()
    pool = connections.pool(size=4, timeout=0.05)
    connections.closing.clear()
    for connection in await held_by(pool, "mallory", 2):
        pool.drop(connection)
    with pytest.raises(ShareTimeout):
        await held_by(pool, "mallory")
    connections.closing.set()
    assert len(await held_by(pool, "mallory", 2)) == 2


async def test_what_fails_or_is_given_up_counts_for_nobody():
    connections = Connections()
    pool = connections.pool(size=4, timeout=5)
    connect, pool._connect = pool._connect, None
    for _ in range(3):
        with pytest.raises(TypeError):
            await held_by(pool, "mallory")
    pool._connect = connect
    held = await held_by(pool, "mallory", 2)
    for steps in range(8):
        waiting = asyncio.create_task(held_by(pool, "mallory"))
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        pool.give_back(held.pop())
        with suppress(asyncio.CancelledError):
            pool.give_back(*await waiting)
        held += await held_by(pool, "mallory")
    for connection in held:
        pool.give_back(connection)
    assert (pool.in_use(), pool._turns._held, pool._callers) == (0, {}, {})


@pytest.mark.parametrize(
    ("address", "caller"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::/64"), ("unknown", "unknown")],
)
def test_a_stranger_is_an_address_or_its_network(address, caller):
    context = RequestContext(client=address)
    assert context.caller == caller
    context.user_id = 7
    assert context.caller == 7


def holding():
    """Operations that keep their connection until they may go."""
    router = Router(prefix="/peels", tags=["peels"])
    router.may_go, router.begun = asyncio.Event(), []

    async def hold(rows):
        await rows.fetch(select(Peeling.id))
        router.begun.append(rows)
        await router.may_go.wait()

    @router.post("/known")
    async def known(_: CurrentUser, session: Session) -> None:
        await hold(session)

    @router.post("/stranger")
    async def stranger(session: Session) -> None:
        await hold(session)

    @router.get("/read")
    async def read(_: CurrentUser, reader: Reader) -> None:
        async with reader.snapshot() as snapshot:
            await hold(snapshot)

    return router


@pytest.mark.parametrize("way", ["short", "long"])
@pytest.mark.parametrize("path", ["/peels/known", "/peels/stranger", "/peels/read"])
async def test_who_keeps_half_of_the_connections_gets_no_more_and_nobody_else_notices(
    mount, alice, bob, log, monkeypatch, way, path
):
    if way == "long":
        monkeypatch.setattr("kernel.fast.routing.OFF", {"plan"})
    router, method = holding(), "GET" if path == "/peels/read" else "POST"
    few = {"pool_size": 2, "max_overflow": 2, "pool_timeout": 0.5, "slow_request": 60}
    async with mount(router, **few) as client, AsyncExitStack() as clients:

        async def ask(who, address, method, path, **content):
            transport = httpx.ASGITransport(client.app, client=(address, 1))
            at = httpx.AsyncClient(transport=transport, base_url="http://test")
            headers = {} if path == "/peels/stranger" else who.headers
            await clients.enter_async_context(at)
            return await at.request(method, path, headers=headers, **content)

        async def keep(who, address):
            asked = [asyncio.create_task(ask(who, address, method, path)) for _ in range(2)]
            expected = len(router.begun) + 2
            await until(lambda: has_begun(router, expected), PATIENCE)
            return asked

        kept = await keep(alice, "192.0.2.1")
        async with asyncio.timeout(5):
            refused = await ask(alice, "192.0.2.1", method, path)
        soup = {"json": {"title": "Soup"}}
        others = [await ask(bob, "192.0.2.2", "POST", "/peelings", **soup) for _ in range(3)]
        others += [await ask(bob, "192.0.2.2", "GET", "/peelings") for _ in range(3)]
        kept += await keep(bob, "192.0.2.2")
        router.may_go.set()
        answers = await asyncio.gather(*kept)
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.status_code for answer in others] == [201] * 3 + [200] * 3
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"] == "too_many_requests"
    assert log.lines("WARNING", "ERROR") == []


async def has_begun(router, number):
    return len(router.begun) == number
