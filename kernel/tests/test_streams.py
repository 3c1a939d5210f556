"""Reads of one state, and rows in any number, on connections of their own."""

import asyncio
import tracemalloc

import pytest
from fastapi.responses import StreamingResponse
from sqlalchemy import BigInteger, bindparam, func, text
from sqlmodel import select

from kernel.data.models import Dto
from kernel.http.dependencies import Reader
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.tests.peelings.models import Peeling, PeelingPublic
from kernel.tests.processes import until

ALL = select(Peeling).order_by(Peeling.id)
COUNT = select(func.count()).select_from(Peeling)
NUMBERS = text("SELECT n AS number, repeat('x', 100) AS text FROM generate_series(1, :most) AS n")
NUMBERS = NUMBERS.bindparams(bindparam("most", type_=BigInteger))


class Number(Dto):
    number: int
    text: str


async def fill(sql, alice, count):
    await sql.execute(
        "INSERT INTO peelings (title, owner_id) SELECT n::text, $1 FROM generate_series(1, $2) n",
        alice.user_id,
        count,
    )


async def test_reads_of_a_snapshot_see_one_state(app, sql, alice):
    await fill(sql, alice, 3)
    reader = app.state.resources.reader
    async with reader.snapshot() as snapshot:
        [[before]] = await snapshot.fetch(COUNT)
        await fill(sql, alice, 5)
        rows = await snapshot.all(PeelingPublic, ALL)
        streamed = [row async for row in snapshot.stream(PeelingPublic, ALL)]
        first = await snapshot.first(PeelingPublic, ALL)
    assert (before, len(rows)) == (3, 3)
    assert (streamed, first) == (rows, rows[0])
    [[after]] = await reader.fetch(COUNT)
    assert (after, reader.in_use()) == (8, 0)


async def test_a_snapshot_is_of_no_use_after_its_block(app):
    async with app.state.resources.reader.snapshot() as snapshot:
        stream = snapshot.stream(PeelingPublic, ALL)
    with pytest.raises(RuntimeError, match="this snapshot has ended"):
        await snapshot.fetch(COUNT)
    with pytest.raises(RuntimeError, match="this snapshot has ended"):
        await anext(stream)


async def test_a_snapshot_that_fails_gives_its_connection_back(app, sql):
    async def fail(error):
        async with app.state.resources.reader.snapshot() as snapshot:
            await snapshot.fetch(COUNT)
            raise error

    for error in (ValueError, asyncio.CancelledError):
        with pytest.raises(error):
            await fail(error)
        assert app.state.resources.reader.in_use() == 0


async def test_a_hundred_thousand_rows_take_the_memory_of_a_few_hundred(app):
    reader = app.state.resources.reader
    peaks = {}
    for most in (1_000, 100_000):
        tracemalloc.start()
        total = 0
        async for row in reader.stream(Number, NUMBERS, most=most):
            total += row.number
        peaks[most] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == most * (most + 1) / 2
    assert peaks[100_000] < 2 * peaks[1_000] + 100_000


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1000])
async def test_a_stream_has_every_row(app, sql, alice, count):
    await fill(sql, alice, count)
    rows = [row.title async for row in app.state.resources.reader.stream(PeelingPublic, ALL)]
    assert rows == [f"{number}" for number in range(1, count + 1)]


async def test_a_mistake_in_a_stream_is_told(app):
    with pytest.raises(TypeError, match="no value for the statement's parameter most"):
        await anext(app.state.resources.reader.stream(Number, NUMBERS))
    with pytest.raises(TypeError, match="parameter most cannot be of type str"):
        await anext(app.state.resources.reader.stream(Number, NUMBERS, most="many"))
    assert app.state.resources.reader.in_use() == 0


def exports():
    router = Router(prefix="/peels", tags=["peels"])

    @router.get("/export", response_class=StreamingResponse)
    async def export(_: CurrentUser, reader: Reader) -> StreamingResponse:
        async def lines():
            async for row in reader.stream(Number, NUMBERS, most=50_000):
                yield f"{row.number},{row.text}\n"

        return StreamingResponse(lines(), media_type="text/csv")

    return router


async def test_an_export_is_streamed_to_its_end(mount, alice):
    async with mount(exports()) as client:
        answer = await client.get("/peels/export", headers=alice.headers)
        assert client.app.state.resources.reader.in_use() == 0
    lines = answer.text.splitlines()
    assert (answer.status_code, len(lines)) == (200, 50_000)
    assert lines[-1].startswith("50000,")


async def test_streams_that_nobody_reads_on_leave_reads_alone_and_go(mount, alice):
    """Each holds a connection: of those for streams, not of those for reads."""
    async with mount(exports(), read_pool_size=1, pool_timeout=0.2) as client:
        streams = [
            client.app.state.resources.reader.stream(Number, NUMBERS, most=10**6) for _ in range(4)
        ]
        for stream in streams:
            await anext(stream)
        assert (await client.get("/users/me", headers=alice.headers)).status_code == 200
        with pytest.raises(Exception, match="no database connection is free"):
            await anext(client.app.state.resources.reader.stream(Number, NUMBERS, most=1))
        for stream in streams:
            await stream.aclose()
        assert client.app.state.resources.reader.in_use() == 0


async def test_a_stream_that_is_never_read_on_is_given_up(mount, alice):
    async with mount(exports(), statement_timeout=0.5, pool_timeout=0.1) as client:
        reader = client.app.state.resources.reader
        streams = [reader.stream(Number, NUMBERS, most=10**6) for _ in range(4)]
        for stream in streams:
            await anext(stream)

        async def is_idle():
            return reader.in_use() == 0

        await until(is_idle, 10)
        assert [row.number async for row in reader.stream(Number, NUMBERS, most=1)] == [1]
        with pytest.raises(RuntimeError, match="nobody has read for too long"):
            async for _ in streams[0]:
                pass


async def test_a_stream_after_a_restart_of_its_connection_begins_anew(app, end_connections):
    reader = app.state.resources.reader
    for _ in range(2):
        rows = [row async for row in reader.stream(Number, NUMBERS, most=10)]
        assert len(rows) == 10
        await end_connections()
