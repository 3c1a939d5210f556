"""Connections: who gets one, in which order, and that none is lost."""

import asyncio
from itertools import count

import pytest

from kernel.data.pool import Pool
from kernel.tests.processes import until

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
