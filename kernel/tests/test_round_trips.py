"""The walk over what requests cost, run over the tests' own slices, and its instrument."""

import asyncpg

from kernel.testing.round_trips import *  # noqa: F403


async def test_the_tap_counts_each_wait(tap):
    connection = await asyncpg.connect(tap.url)

    async def waits(run):
        before = tap.waits
        await run("SELECT 1")
        return tap.waits - before

    assert await waits(connection.fetchval) == 2  # the first time, it is prepared
    assert await waits(connection.fetchval) == 1
    assert await waits(connection.execute) == 1
    async with connection.transaction():
        assert await waits(connection.fetchval) == 1
    before = tap.waits
    async with connection.transaction():
        await connection.fetchval("SELECT 1")
    assert tap.waits - before == 3
    await connection.close()
