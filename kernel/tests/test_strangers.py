"""Ways past the session to its connection, in a request and after it: no stranger is met there."""

import asyncio
from contextlib import nullcontext

import anyio
import pytest
from fastapi import BackgroundTasks, Depends
from sqlalchemy import func, text
from sqlalchemy.util import await_, greenlet_spawn
from sqlmodel import select

from kernel.data.independent import open_connection, open_session
from kernel.data.models import Dto
from kernel.http.dependencies import Reader, Session
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.tests.peelings.models import Peeling, PeelingPublic
from kernel.tests.processes import PATIENCE, until

ONE = {"pool_size": 1, "max_overflow": 0, "read_pool_size": 1}
LATE = "INSERT INTO peelings (title, owner_id) SELECT 'late', id FROM users LIMIT 1"
IN_TRANSACTION = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'
"""
outcomes = []


class Answer(Dto):
    text: str = ""


@pytest.fixture(autouse=True)
def forget():
    outcomes.clear()


async def add(session, me, title):
    return await session.insert(Peeling, PeelingPublic, title=title, owner_id=me.id)


async def titles(sql):
    return [row["title"] for row in await sql.fetch("SELECT title FROM peelings ORDER BY id")]


def is_idle(client):
    async def is_idle():
        return client.app.state.resources.writer.in_use() == 0

    return is_idle


def router_with(*handlers, **options):
    router = Router(prefix="/peels", tags=["peels"], **options)
    for handler in handlers:
        router.post(f"/{handler.__name__}", status_code=201)(handler)
    return router


async def noted(work):
    try:
        outcomes.append(await work())
    except Exception as error:  # noqa: BLE001  # whatever it is
        outcomes.append(error)


# What was kept of a session meets no later request.


async def slow_victim(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "victim")
    await asyncio.sleep(0.02)
    await session.fetch(select(func.count()).select_from(Peeling))
    return Answer()


async def of_a_cursor(session):
    cursor = (await (await session.connection()).get_raw_connection()).cursor()
    return lambda: cursor.execute(LATE)


async def of_the_adapter(session):
    adapted = (await (await session.connection()).get_raw_connection()).dbapi_connection
    return lambda: adapted.run_async(lambda raw: raw.execute(LATE))


async def of_asyncpgs_connection(session):
    kept = []

    async def keep(raw):
        kept.append(raw)

    def find(sync_session):
        sync_session.connection().connection.dbapi_connection.run_async(keep)

    await session.run_sync(find)
    return lambda: await_(kept[0].execute(LATE))


async def of_sqlalchemys_connection(session):
    connection = (await session.connection()).sync_connection
    return lambda: connection.execute(text(LATE))


async def of_the_sync_session(session):
    sync_session = session.sync_session
    return lambda: sync_session.execute(text(LATE))


async def of_a_stream(session):
    result = await session.stream(text("SELECT generate_series(1, 1000)"))
    await result.fetchmany(1)
    return result._real_result.fetchall  # in the greenlet that is made for it


def of_the_sync_sessions(name):
    async def method(session):
        return getattr(session.sync_session, name)

    method.__name__ = name
    return method


def keeps(find):
    async def keep(tasks: BackgroundTasks, me: CurrentUser, session: Session) -> Answer:
        await add(session, me, "kept")
        later = await find(session)

        async def run():
            await asyncio.sleep(0.01)  # until somebody else has the connection
            await noted(lambda: greenlet_spawn(later))

        tasks.add_task(run)
        return Answer()

    return keep


KEPT = [
    *map(of_the_sync_sessions, ("rollback", "close", "reset", "invalidate", "commit")),
    *(of_a_cursor, of_the_adapter, of_asyncpgs_connection, of_sqlalchemys_connection),
    *(of_the_sync_session, of_a_stream),
]


@pytest.mark.parametrize("what", KEPT)
async def test_what_was_kept_touches_no_other_request(mount, alice, sql, what):
    router = router_with(slow_victim)
    router.post("/keep", status_code=201)(keeps(what))
    async with mount(router, **ONE, pool_timeout=10) as client:
        client.headers.update(alice.headers)
        for _ in range(5):
            answers = await asyncio.gather(
                client.post("/peels/keep"), *[client.post("/peels/slow_victim") for _ in range(3)]
            )
            assert {answer.status_code for answer in answers} == {201}
        await until(is_idle(client), 3)
    assert sorted(await titles(sql)) == ["kept"] * 5 + ["victim"] * 15


async def rolls_back_late(me: CurrentUser, session: Session) -> Answer:
    def work(sync_session):
        try:
            sync_session.execute(text("SELECT pg_sleep(0.01)"))
            sync_session.execute(text("SELECT pg_sleep(0.05)"))
            sync_session.execute(text(LATE))
        except BaseException:
            sync_session.rollback()
            raise

    await add(session, me, "kept")
    outcomes.append(asyncio.create_task(session.run_sync(work)))
    await asyncio.sleep(0.03)
    return Answer()


async def test_a_task_that_outlives_its_handler_undoes_nobodys_work(mount, alice, sql):
    async with mount(router_with(rolls_back_late, slow_victim), **ONE, pool_timeout=10) as client:
        client.headers.update(alice.headers)
        for _ in range(3):
            answers = await asyncio.gather(
                client.post("/peels/rolls_back_late"),
                *[client.post("/peels/slow_victim") for _ in range(3)],
            )
            assert [answer.status_code for answer in answers][1:] == [201, 201, 201]
        await asyncio.gather(*outcomes, return_exceptions=True)
        await until(is_idle(client), 3)
    assert (await titles(sql)).count("victim") == 9
    assert "late" not in await titles(sql)


async def uses_the_engine(session: Session) -> Answer:
    async with (await session.connection()).engine.begin() as connection:
        await connection.execute(text(LATE))
    return Answer()


async def test_the_engine_behind_a_connection_gives_no_other(mount, alice, sql, log):
    async with mount(router_with(uses_the_engine)) as client:
        assert (await client.post("/peels/uses_the_engine")).status_code == 500
    assert await titles(sql) == []
    assert "this engine has no connections of its own" in log.lines("ERROR")[0]["exception"]


# What is left on the connection behind SQLAlchemy's back.


def leaves(way, statement):
    async def leave(session: Session) -> Answer:
        def by_cursor(sync_session):
            cursor = sync_session.connection().connection.cursor()
            cursor.execute(statement)

        def by_adapter(sync_session):
            adapted = sync_session.connection().connection.dbapi_connection
            adapted.run_async(lambda raw: raw.execute(statement))

        if way == "exec":
            await session.exec(text(statement))
        elif way == "fetch":
            await session.fetch(text(statement))
        elif way == "driver":
            async with session.driver_connection() as connection:
                await connection.execute(statement)
        else:
            await session.run_sync(by_cursor if way == "cursor" else by_adapter)
        return Answer()

    return leave


async def looks(session: Session) -> Answer:
    statement = text("""SELECT current_setting('lock_timeout') || ' ' || current_user || ' '
        || coalesce(to_regclass('pg_temp.leavings')::text, '-') || ' '
        || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
        || ' '
        || (SELECT count(*) FROM pg_prepared_statements WHERE name = 'leavings')""")
    [[seen]] = await session.fetch(statement)
    return Answer(text=seen)


@pytest.mark.parametrize("way", ["exec", "fetch", "cursor", "adapter", "driver"])
@pytest.mark.parametrize(
    "statement",
    [
        *(
            "SET lock_timeout = '7s'",
            "SET ROLE pg_database_owner",
            "CREATE TEMP TABLE leavings (id int)",
        ),
        *("SELECT pg_advisory_lock(7)", "PREPARE leavings AS SELECT 1", "DEALLOCATE ALL"),
        "SELECT 1 AS id INTO pg_temp.leavings",
    ],
)
async def test_no_statement_leaves_a_setting_or_a_lock_however_it_is_sent(
    mount, alice, way, statement
):
    router = router_with(looks)
    router.post("/leave")(leaves(way, statement))
    async with mount(router, **ONE) as client:
        client.headers.update(alice.headers)
        before = (await client.post("/peels/looks")).text
        for _ in range(2):
            assert (await client.post("/peels/leave")).status_code == 200
            assert (await client.post("/peels/looks")).text == before
            assert (await client.post("/peelings", json={"title": "x"})).status_code == 201


@pytest.mark.parametrize("word", ["COMMIT", "ROLLBACK"])
async def test_an_end_of_the_transaction_that_nobody_could_see_is_no_success(
    mount, alice, sql, log, word
):
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/{then}")
    async def write(then: str, me: CurrentUser, session: Session) -> Answer:
        await add(session, me, "somewhere")
        async with session.driver_connection() as connection:
            await (await connection.prepare(word)).fetch()
        if then == "go-on":
            await add(session, me, "undone")
        return Answer()

    async with mount(router, **ONE) as client:
        client.headers.update(alice.headers)
        for then in ("go-on", "end"):
            assert (await client.post(f"/peels/{then}")).status_code == 500
        assert (await client.post("/peelings", json={"title": "next"})).status_code == 201
    for line in log.lines("ERROR"):
        assert "was sent as a statement" in line["exception"]
    assert "undone" not in await titles(sql)


async def detaches(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "detached")
    await (await session.connection()).run_sync(lambda connection: connection.detach())
    return Answer()


async def test_a_connection_that_was_detached_is_not_given_back(mount, alice):
    async with mount(router_with(detaches), **ONE) as client:
        client.headers.update(alice.headers)
        for _ in range(2):
            await client.post("/peels/detaches")
            assert (await client.post("/peelings", json={"title": "x"})).status_code == 201


CONTROL = [
    *("COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "BEGIN", "END", "/* */ COMMIT"),
    "START TRANSACTION READ WRITE",
]


@pytest.mark.parametrize("statement", CONTROL)
async def test_a_statement_that_controls_the_transaction_is_refused(mount, alice, sql, statement):
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/{way}")
    async def write(way: str, me: CurrentUser, session: Session) -> Answer:
        await add(session, me, "undone")
        if way == "fetch":
            await session.fetch(text(statement))
        elif way == "exec":
            await session.exec(text(statement))
        else:
            async with session.driver_connection() as connection:
                await connection.execute(f"SELECT 1; {statement}")
        return Answer()

    @router.get("/read")
    async def read(reader: Reader) -> Answer:
        await reader.fetch(text(statement))
        return Answer()

    async with mount(router, **ONE) as client:
        client.headers.update(alice.headers)
        for way in ("fetch", "exec", "driver"):
            assert (await client.post(f"/peels/{way}")).status_code == 500
            dry = await client.post(f"/peels/{way}", headers={"Prefer": "tx=rollback"})
            assert dry.status_code == 500
        assert (await client.get("/peels/read")).status_code == 500

        async def is_free():
            return await sql.fetchval(IN_TRANSACTION) == 0

        await until(is_free, PATIENCE)
        assert (await client.post("/peelings", json={"title": "next"})).status_code == 201
        assert (await client.get("/peelings")).status_code == 200
    assert await titles(sql) == ["next"]


# Within a request.


async def gathers_with_a_savepoint(me: CurrentUser, session: Session) -> Answer:
    async def optional():
        async with session.begin_nested():
            await add(session, me, "optional")
            await asyncio.sleep(0.02)
            raise ValueError

    async def needed():
        await asyncio.sleep(0.01)
        await add(session, me, "needed")

    results = await asyncio.gather(optional(), needed(), return_exceptions=True)
    return Answer(text=f"{[type(each).__name__ for each in results]}")


async def test_no_task_works_within_anothers_savepoint(mount, alice, sql):
    async with mount(router_with(gathers_with_a_savepoint)) as client:
        url = "/peels/gathers_with_a_savepoint"
        answer = await client.post(url, headers=alice.headers)
    assert answer.json()["text"] == "['ValueError', 'RuntimeError']"
    assert await titles(sql) == []


async def returns_too_soon(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "undone")
    outcomes.append(asyncio.create_task(session.fetch(select(func.pg_sleep(0.2)))))
    await asyncio.sleep(0.05)
    return Answer()


async def test_a_statement_that_is_still_under_way_at_the_commit_is_a_mistake(
    mount, alice, sql, log
):
    async with mount(router_with(returns_too_soon)) as client:
        answer = await client.post("/peels/returns_too_soon", headers=alice.headers)
        await asyncio.gather(*outcomes, return_exceptions=True)
    assert answer.status_code == 500
    assert "one task at a time" in log.lines("ERROR")[0]["exception"]
    assert await titles(sql) == []


async def commits_when_told(me: CurrentUser, session: Session):
    try:
        yield
    except Exception:
        await session.rollback()
        await add(session, me, "audit")
        await session.commit()
        raise


async def is_refused_at_commit(
    _: None = Depends(commits_when_told), *, me: CurrentUser, session: Session
) -> Answer:
    await add(session, me, "undone")
    return Answer()


async def test_a_refused_commit_lets_nobody_else_commit(mount, alice, sql):
    await sql.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'no' USING ERRCODE = '23503'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON peelings DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.title = 'undone') EXECUTE FUNCTION refuse()""")
    try:
        async with mount(router_with(is_refused_at_commit)) as client:
            answer = await client.post("/peels/is_refused_at_commit", headers=alice.headers)
    finally:
        await sql.execute("DROP FUNCTION refuse CASCADE")
    assert answer.status_code == 500  # the dependency's own commit() is refused
    assert await titles(sql) == []


async def nests(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "request")
    async with open_session() as one:
        await add(one, me, "one")
        async with open_session() as two:
            await add(two, me, "two")
    return Answer()


async def nests_in_background(tasks: BackgroundTasks, me: CurrentUser) -> Answer:
    async def work():
        async with open_session() as one:
            await add(one, me, "one")
            async with open_session() as two:
                await add(two, me, "two")

    tasks.add_task(noted, work)
    return Answer()


@pytest.mark.parametrize("handler", [nests, nests_in_background])
async def test_sessions_within_sessions_do_not_wait_for_each_other(mount, alice, sql, handler):
    async with mount(router_with(handler), pool_size=2, max_overflow=0, pool_timeout=5) as client:
        url = f"/peels/{handler.__name__}"
        answers = await asyncio.gather(
            *[client.post(url, headers=alice.headers) for _ in range(20)]
        )
        assert {answer.status_code for answer in answers} == {201}
        assert client.app.state.resources.writer.in_use() == 0
    found = await titles(sql)
    assert (found.count("one"), found.count("two")) == (20, 20)


@pytest.mark.parametrize("is_kernels", [False, True])
async def test_an_error_of_another_connection_is_the_handlers_own(mount, alice, sql, is_kernels):
    async def asks_elsewhere(me: CurrentUser, session: Session) -> Answer:
        outcomes.append("run")
        elsewhere = open_connection() if is_kernels else nullcontext(sql)
        async with session.driver_connection(), elsewhere as other:
            await other.execute("DO $$ BEGIN RAISE 'x' USING ERRCODE = '40001'; END $$")
        return Answer()

    async with mount(router_with(asks_elsewhere)) as client:
        answer = await client.post("/peels/asks_elsewhere", headers=alice.headers)
    assert (answer.status_code, outcomes) == (500, ["run"])


async def is_lost_before_commit(me: CurrentUser, session: Session) -> Answer:
    outcomes.append("run")
    await add(session, me, f"{len(outcomes)}")
    if len(outcomes) == 1:
        async with open_session() as own:
            [[pid]] = await session.fetch(text("SELECT pg_backend_pid()"))
            await own.exec(text(f"SELECT pg_terminate_backend({pid})"))
        await asyncio.sleep(0.1)
    return Answer()


async def test_a_connection_that_was_lost_before_the_commit_was_sent_is_no_unknown_outcome(
    mount, alice, sql
):
    async with mount(router_with(is_lost_before_commit)) as client:
        answer = await client.post("/peels/is_lost_before_commit", headers=alice.headers)
    assert (answer.status_code, await titles(sql)) == (201, ["2"])


async def test_a_session_of_cookies_is_another_thing(mount, alice, sql):
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/write")
    async def write(me: CurrentUser, session: Session) -> Answer:
        await add(session, me, "x")
        return Answer()

    async with mount(router) as client:
        inner = client.app.build_middleware_stack()

        async def with_cookies(scope, receive, send):  # as Starlette's SessionMiddleware
            await inner({**scope, "session": {"cart": 7}}, receive, send)

        client.app.middleware_stack = with_cookies
        client.headers.update(alice.headers)
        assert (await client.post("/peels/write")).status_code == 200
        assert (await client.get("/peelings")).status_code == 200


# Reads that nobody waits for.


async def test_a_read_that_is_cancelled_at_any_moment_gives_its_connection_back(app):
    reader = app.state.resources.reader
    statement = text("SELECT set_config('my.tenant', '7', false)")
    for steps in range(30):
        task = asyncio.create_task(reader.fetch(statement))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def is_idle():
        return reader.in_use() == 0

    await until(is_idle, 3)
    [[seen]] = await reader.fetch(text("SELECT nullif(current_setting('my.tenant', true), '')"))
    assert seen is None


async def test_a_snapshot_whose_reader_is_cancelled_gives_its_connection_back(app):
    reader = app.state.resources.reader
    for _ in range(8):
        with anyio.move_on_after(0.02):
            async with reader.snapshot() as snapshot:
                await snapshot.fetch(select(func.count()).select_from(Peeling))
                await asyncio.sleep(1)

    async def is_idle():
        return reader.in_use() == 0

    await until(is_idle, 2)
    async with reader.snapshot() as snapshot:
        assert await snapshot.fetch(select(func.count()).select_from(Peeling))
