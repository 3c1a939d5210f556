"""What SQLAlchemy executes leaves the kernel's connections as asyncpg's own statements do."""

import asyncio
import time
from contextlib import suppress

import asyncpg
import pytest
from sqlalchemy import bindparam, func, insert, select, text, update

from kernel.context import RequestContext, enter_context, leave_context
from kernel.data.independent import open_session
from kernel.data.models import Dto
from kernel.errors import Unprocessable
from kernel.fast.statements import is_search, plan_of
from kernel.http.dependencies import Reader, Session
from kernel.http.router import Router
from kernel.testing.switches import needs
from kernel.tests.app import NAME
from kernel.tests.peelings.models import Peeling, PeelingPublic
from kernel.tests.processes import until
from kernel.tests.test_statements import is_idle

SLEEP = text("SELECT pg_sleep(:seconds), 1 AS number")
NUMBERS = text("SELECT n AS number FROM generate_series(1, 2000) AS n")
BACKENDS = f"application_name LIKE '{NAME} %' AND datname = current_database()"
ACTIVE = f"SELECT count(*) FROM pg_stat_activity WHERE {BACKENDS} AND state = 'active'"


class Number(Dto):
    number: int


async def by_the_reader(app, statement, **values):
    return await app.state.resources.reader.fetch(statement, **values)


async def by_a_snapshot(app, statement, **values):
    async with app.state.resources.reader.snapshot() as snapshot:
        return await snapshot.fetch(statement, **values)


async def by_a_stream(app, statement, **values):
    stream = app.state.resources.reader.stream(Number, statement, **values)
    return [{"number": row.number} async for row in stream]


async def by_a_session(app, statement, **values):
    async with open_session(app) as session:
        return await session.fetch(statement, **values)


WAYS = [by_the_reader, by_a_snapshot, by_a_stream, by_a_session]


@pytest.mark.parametrize("run", WAYS)
async def test_what_is_cut_off_frees_its_connection_and_its_server(app, sql, run):
    """A frozen server must not delay whoever has given up."""
    for _ in range(3):
        started = time.perf_counter()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):  # when the server has begun
                await run(app, SLEEP, seconds=60)
        assert time.perf_counter() - started < 1.3
    await until(is_idle(app), 3)

    async def is_quiet():
        return await sql.fetchval(ACTIVE) == 0

    await until(is_quiet, 3)
    [row] = await run(app, SLEEP, seconds=0)
    assert row["number"] == 1


@pytest.mark.parametrize("run", WAYS)
async def test_connections_that_died_idle_are_noticed_by_nobody(app, end_connections, run):
    for _ in range(3):
        [row] = await run(app, SLEEP, seconds=0)
        assert row["number"] == 1
        await end_connections()
    await until(is_idle(app), 3)


async def test_a_read_whose_server_dies_is_run_again(app, end_connections):
    async def kill():
        await asyncio.sleep(0.1)
        await end_connections()

    killer = asyncio.create_task(kill())
    [row] = await by_the_reader(app, SLEEP, seconds=0.3)
    await killer
    assert row["number"] == 1
    await until(is_idle(app), 3)


async def test_concurrent_reads_do_not_affect_each_other(app):
    async def read(number):
        [row] = await by_the_reader(app, text("SELECT CAST(:n AS int) AS number"), n=number)
        return row["number"]

    assert await asyncio.gather(*map(read, range(100))) == [*range(100)]
    assert app.state.resources.reader.in_use() == 0


async def test_a_stream_that_is_left_leaves_its_connection_to_others(app):
    reader = app.state.resources.reader
    for _ in range(10):
        async with reader.snapshot() as snapshot:
            stream = snapshot.stream(Number, NUMBERS)
            first = await anext(stream)
            [[count]] = await snapshot.fetch(text("SELECT 7"))
            second = await anext(stream)
            await stream.aclose()
        assert (first.number, count, second.number) == (1, 7, 2)
        assert reader.in_use() == 0
    [pids] = {len({row["pid"] for row in await reader.fetch(text("SELECT pg_backend_pid() pid"))})}
    assert pids == 1


async def test_two_tasks_at_once_are_refused_in_a_session(app):
    async with open_session(app) as session:
        results = await asyncio.gather(
            *[session.fetch(SLEEP, seconds=0.01) for _ in range(2)], return_exceptions=True
        )
    assert [type(result) for result in results] == [list, RuntimeError]
    await until(is_idle(app), 3)


async def test_a_fetch_takes_part_in_the_transaction_and_its_savepoints(app, sql, alice):
    async def titles():
        return [row[0] for row in await sql.fetch("SELECT title FROM peelings ORDER BY id")]

    new = {"owner_id": alice.user_id}
    returning = insert(Peeling).returning(Peeling.id)
    with suppress(ZeroDivisionError):
        async with open_session(app) as session:
            await session.fetch(returning.values(title="undone", **new))
            raise ZeroDivisionError
    async with open_session(app) as session:
        await session.fetch(returning.values(title="kept", **new))
        nested = await session.begin_nested()
        await session.fetch(update(Peeling).values(title="undone").returning(Peeling.id))
        await session.fetch(returning.values(title="undone", **new))
        await nested.rollback()
        session.add(Peeling(title="by the orm", **new))
        [[seen]] = await session.fetch(text("SELECT count(*) FROM peelings"))
        await session.insert(Peeling, PeelingPublic, title=func.concat("ex", "pr"), **new)
    assert seen == 2
    assert await titles() == ["kept", "by the orm", "expr"]


async def test_a_statement_that_gives_no_rows_gives_none(app):
    for _ in range(2):
        assert await by_the_reader(app, text("SET LOCAL my.tenant = '7'")) == []
        assert await by_a_session(app, text("LOCK TABLE peelings")) == []


async def test_a_write_through_the_reader_is_refused_and_leaves_no_trace(app, alice):
    returning = insert(Peeling).values(title="x", owner_id=1).returning(Peeling.id)
    for _ in range(3):
        for run in (by_the_reader, by_a_snapshot):
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await run(app, returning)
    assert app.state.resources.reader.in_use() == 0


@needs("statements")
async def test_each_way_is_counted_as_one_query(app, sql):
    short = select(Peeling.id).where(Peeling.id == -1)
    context = RequestContext(app)
    token = enter_context(context)
    try:
        for run in (by_the_reader, by_a_session):
            for statement in (short, short, short, text("SELECT 1"), text("SELECT 1")):
                before, spent = context.queries, context.database_time
                await run(app, statement)
                assert (context.queries - before, context.database_time > spent) == (1, True)
    finally:
        leave_context(token)
    assert plan_of(short)


async def test_rows_may_be_asked_for_a_few_at_a_time(app):
    statement = NUMBERS.execution_options(yield_per=10)
    for run in WAYS:
        assert [row["number"] for row in await run(app, statement)] == [*range(1, 2001)]


@pytest.mark.parametrize("run", WAYS)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seconds": 0, "second": 1}, "no parameter second; it has: seconds"),
        ({}, "no value for the statement's parameter seconds"),
        ({"seconds": "long"}, "parameter seconds cannot be of type str"),
    ],
)
async def test_a_wrong_name_or_value_is_told_and_nothing_is_sent(app, run, values, words):
    for _ in range(2):
        with pytest.raises(TypeError, match=words):
            await run(app, SLEEP, **values)
    await until(is_idle(app), 2)


UNSENDABLE = {
    "asyncpg": select(Peeling.id.label("number")).where(Peeling.id == bindparam("id")),
    "SQLAlchemy": text("SELECT id AS number FROM peelings WHERE id = :id"),
}


@pytest.mark.parametrize("statement", UNSENDABLE.values(), ids=UNSENDABLE)
@pytest.mark.parametrize("run", WAYS)
async def test_a_value_that_cannot_be_sent_leaves_no_lock_and_nothing_under_way(
    app, sql, end_connections, run, statement
):
    """asyncpg has prepared the statement, and what it has prepared it does not end."""
    await end_connections()  # only what is new to a connection is prepared
    for value, kinds in ((2**70, (Unprocessable, asyncpg.DataError)), ("x", TypeError)):
        with pytest.raises(kinds):
            await run(app, statement, id=value)
        assert await sql.fetchval(ACTIVE) == 0
        async with sql.transaction():
            await sql.execute("LOCK TABLE peelings IN ACCESS EXCLUSIVE MODE NOWAIT")
        assert await is_idle(app)()


def searches(statement):
    router = Router(prefix="/peels", tags=["peels"])

    @router.get("/peelings")
    async def search(reader: Reader, number: str) -> list[Number]:
        return await reader.all(Number, statement, id=int(number))

    @router.post("/peelings")
    async def search_for_a_write(session: Session, number: str) -> list[Number]:
        return await session.all(Number, statement, id=int(number))

    return router


@pytest.mark.parametrize("statement", UNSENDABLE.values(), ids=UNSENDABLE)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_value_that_cannot_be_sent_fails_no_other_request(mount, method, statement):
    """The server's limit of time goes on for what was prepared, and would strike who comes next."""
    async with mount(searches(statement), statement_timeout=0.2, read_pool_size=1) as client:
        for _ in range(2):
            refused = await client.request(method, f"/peels/peelings?number={2**70}")
            await asyncio.sleep(0.4)
            answer = await client.request(method, "/peels/peelings?number=7")
            assert (refused.status_code, answer.status_code) == (422, 200)


def searching():
    """A statement of a search, made anew."""
    titles = select(Peeling.id.label("number"))
    return titles.where(Peeling.title.ilike(bindparam("pattern")))


PLANNED = """SELECT count(*) AS number FROM pg_prepared_statements
    WHERE statement ILIKE '%from peelings%ilike%' AND custom_plans + generic_plans > 1"""
SEARCHES = {"made once": [searching()] * 12, "made anew": [searching() for _ in range(12)]}


@pytest.mark.parametrize("run", WAYS)
@pytest.mark.parametrize("statements", SEARCHES.values(), ids=SEARCHES)
async def test_a_search_is_planned_for_its_own_text_alone(app, sql, alice, run, statements):
    """A plan that is kept is one for all texts, and for as long as the connection lives."""
    await alice.post("/peelings", json={"title": "Soup"})
    for number, statement in enumerate(statements):
        found = await run(app, statement, pattern="so%" if number % 2 else "%zzz%")
        assert len(found) == number % 2
    (planned,) = await run(app, text(PLANNED))
    assert planned["number"] == 0


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT id FROM t WHERE (t.a ILIKE $1)", True),
        ("SELECT id FROM t WHERE t.a NOT LIKE $1::VARCHAR", True),
        ("select id from t where t.a\n    ilike\n    $1", True),
        ("SELECT id FROM t WHERE t.a SIMILAR TO $1", True),
        ("SELECT id FROM t WHERE t.a ~* $1", True),
        ("SELECT id FROM t WHERE t.a !~ $1", True),
        ("SELECT id FROM t WHERE t.a @@ plainto_tsquery($1)", True),
        ("SELECT id FROM t WHERE t.likes = $1 AND like_count > $2", False),
        ("INSERT INTO t (likes) VALUES ($1)", False),
    ],
)
def test_a_search_is_what_looks_for_a_pattern(statement, expected):
    assert is_search(statement) is expected


@needs("statements")
def test_a_statement_that_is_used_once_is_not_prepared():
    fresh = select(Peeling.id).where(Peeling.id == 8)
    assert (plan_of(fresh), plan_of(fresh).parameters) == (None, {"id_1": 8})
