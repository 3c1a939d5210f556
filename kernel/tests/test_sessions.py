"""Where a unit of work ends, what undoes what in it, and in what state it leaves its connection."""

import asyncio
from contextlib import suppress

import asyncpg
import pytest
from fastapi import BackgroundTasks, Depends
from fastapi.responses import StreamingResponse
from sqlalchemy import delete, func, text, update
from sqlmodel import select

from kernel.data.independent import open_connection, open_session
from kernel.data.models import Dto
from kernel.http.dependencies import Reader, Session
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.identity.principal import Principal
from kernel.tests.peelings.models import Peeling, PeelingPublic
from kernel.tests.processes import until

IN_TRANSACTION = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'
"""
ONE = {"pool_size": 1, "max_overflow": 0}
errors = []


class Answer(Dto):
    text: str = ""


@pytest.fixture(autouse=True)
def forget_errors():
    errors.clear()


async def titles(sql):
    return [row["title"] for row in await sql.fetch("SELECT title FROM peelings ORDER BY id")]


async def add(session, me, title):
    return await session.insert(Peeling, PeelingPublic, title=title, owner_id=me.id)


async def noted(work):
    try:
        return await work()
    except Exception as error:
        errors.append(error)
        raise


def is_idle(client):
    async def is_idle():
        return client.app.state.resources.writer.in_use() == 0

    return is_idle


def router_with(*handlers):
    """A router whose POST /{name of the function} is that function."""
    router = Router(prefix="/peels", tags=["peels"])
    for handler in handlers:
        router.post(f"/{handler.__name__}", status_code=201)(handler)
    return router


# After the end.


async def in_background(tasks: BackgroundTasks, me: CurrentUser, session: Session) -> Answer:
    tasks.add_task(noted, lambda: add(session, me, "late"))
    await add(session, me, "in time")
    return Answer()


async def in_a_stream(me: CurrentUser, session: Session) -> StreamingResponse:
    async def lines():
        yield (await noted(lambda: add(session, me, "late"))).title

    await add(session, me, "in time")
    return StreamingResponse(lines())


async def in_a_task(tasks: BackgroundTasks, me: CurrentUser, session: Session) -> Answer:
    gate = asyncio.Event()

    async def later():
        await gate.wait()
        await noted(lambda: add(session, me, "late"))

    task = asyncio.create_task(later())

    async def let_go():
        gate.set()
        await asyncio.gather(task, return_exceptions=True)

    tasks.add_task(let_go)
    await add(session, me, "in time")
    return Answer()


async def in_a_task_at_first_use(tasks: BackgroundTasks, session: Session) -> Answer:
    async def later():
        await noted(lambda: session.fetch(select(func.count()).select_from(Peeling)))

    tasks.add_task(later)
    return Answer()


async def by_the_orm(tasks: BackgroundTasks, me: CurrentUser, session: Session) -> Answer:
    async def later():
        async def add_late():
            session.add(Peeling(title="late", owner_id=me.id))
            await session.flush()

        await noted(add_late)

    tasks.add_task(later)
    session.add(Peeling(title="in time", owner_id=me.id))
    await session.flush()
    return Answer()


async def by_what_sends_nothing(
    tasks: BackgroundTasks, me: CurrentUser, session: Session
) -> Answer:
    async def later():
        async def add_late():
            session.add(Peeling(title="late", owner_id=me.id))

        await noted(add_late)

    tasks.add_task(later)
    await add(session, me, "in time")
    return Answer()


async def by_sqlalchemys_connection(
    tasks: BackgroundTasks, me: CurrentUser, session: Session
) -> Answer:
    connection = await session.connection()
    statement = text("INSERT INTO peelings (title, owner_id) VALUES ('late', :me)")
    tasks.add_task(noted, lambda: connection.execute(statement, {"me": me.id}))
    await add(session, me, "in time")
    return Answer()


async def by_asyncpgs_connection(
    tasks: BackgroundTasks, me: CurrentUser, session: Session
) -> Answer:
    async with session.driver_connection() as connection:
        tasks.add_task(noted, lambda: connection.execute("UPDATE peelings SET title = 'late'"))
    await add(session, me, "in time")
    return Answer()


async def by_sqlalchemys_way_to_asyncpg(
    tasks: BackgroundTasks, me: CurrentUser, session: Session
) -> Answer:
    await add(session, me, "in time")
    connection = (await (await session.connection()).get_raw_connection()).driver_connection
    tasks.add_task(noted, lambda: connection.execute("UPDATE peelings SET title = 'late'"))
    return Answer()


async def by_a_cursor(tasks: BackgroundTasks, me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "in time")
    result = await session.stream(text("SELECT generate_series(1, 1000)"))
    await result.fetchmany(1)
    tasks.add_task(noted, result.fetchall)
    return Answer()


async def after_the_yield(session: Session):
    yield
    await noted(lambda: session.fetch(select(func.count()).select_from(Peeling)))


async def in_a_dependency(
    _: None = Depends(after_the_yield), *, me: CurrentUser, session: Session
) -> Answer:
    await add(session, me, "in time")
    return Answer()


LATE = [
    *(in_background, in_a_stream, in_a_task, in_a_task_at_first_use, by_the_orm, in_a_dependency),
    *(by_sqlalchemys_connection, by_asyncpgs_connection, by_sqlalchemys_way_to_asyncpg),
    *(by_a_cursor, by_what_sends_nothing),
]


async def count(me: CurrentUser, session: Session) -> Answer:
    [[number]] = await session.fetch(select(func.count()).select_from(Peeling))
    return Answer(text=str(number))


@pytest.mark.parametrize("handler", LATE)
async def test_what_a_handler_was_lent_is_of_no_use_when_its_unit_of_work_has_ended(
    mount, alice, sql, handler
):
    async with mount(router_with(handler, count), pool_size=3, max_overflow=0) as client:
        client.headers.update(alice.headers)
        answers = [await client.post(f"/peels/{handler.__name__}") for _ in range(20)]
        for answer in answers:
            assert answer.status_code == (200 if handler is in_a_stream else 201)
        assert len(errors) == 20
        stored = await titles(sql)
        assert stored == ["in time"] * (0 if handler is in_a_task_at_first_use else 20)
        assert await sql.fetchval(IN_TRANSACTION) == 0
        await until(is_idle(client), 2)
        counts = await asyncio.gather(*[client.post("/peels/count") for _ in range(9)])
        assert {answer.json()["text"] for answer in counts} == {str(len(stored))}


@pytest.mark.parametrize("handler", [in_background, in_a_stream, in_a_task, by_the_orm])
async def test_the_refusal_says_what_to_do_instead(mount, alice, handler):
    async with mount(router_with(handler)) as client:
        await client.post(f"/peels/{handler.__name__}", headers=alice.headers)
    assert "async with open_session()" in str(errors[0])


# One task at a time.


async def gathered(me: CurrentUser, session: Session) -> Answer:
    await asyncio.gather(*[add(session, me, f"{n}") for n in range(3)])
    return Answer()


async def gathered_at_first_use(session: Session) -> Answer:
    await asyncio.gather(*[session.fetch(select(func.pg_sleep(0.01))) for _ in range(3)])
    return Answer()


@pytest.mark.parametrize("handler", [gathered, gathered_at_first_use])
async def test_two_tasks_at_once_are_refused_and_cost_no_connection(
    mount, alice, sql, log, handler
):
    async with mount(router_with(handler, count), pool_size=3, max_overflow=0) as client:
        client.headers.update(alice.headers)
        for _ in range(20):
            answer = await client.post(f"/peels/{handler.__name__}")
            assert answer.status_code == 500
        counts = await asyncio.gather(*[client.post("/peels/count") for _ in range(9)])
        assert {answer.status_code for answer in counts} == {201}
        await until(is_idle(client), 2)
    assert await titles(sql) == []
    assert "one task at a time may use a session" in log.lines("ERROR")[0]["exception"]


# Savepoints, and the transaction around them.


async def savepoints(me: CurrentUser, session: Session) -> Answer:
    session.add(Peeling(title="orm", owner_id=me.id))
    await add(session, me, "inserted")
    for refused in (False, True):
        try:
            async with session.begin_nested():
                await add(session, me, "undone")
                session.add(Peeling(title="undone, too", owner_id=me.id))
                async with session.begin_nested():
                    await add(session, me, "undone with what is around it")
                await session.insert(
                    Peeling,
                    PeelingPublic,
                    title="undone",
                    owner_id=10**9 if refused else me.id,
                )
                raise RuntimeError
        except (RuntimeError, asyncpg.ForeignKeyViolationError) as error:
            errors.append(error)
    async with session.begin_nested():
        await add(session, me, "released")
    nested = await session.begin_nested()
    await session.exec(update(Peeling).values(title="overwritten"))
    await nested.rollback()
    seen = await session.all(PeelingPublic, select(Peeling).order_by(Peeling.id))
    return Answer(text=" ".join(each.title for each in seen))


async def test_a_savepoint_undoes_all_that_was_done_in_it_in_whatever_way(mount, alice, sql):
    async with mount(router_with(savepoints), **ONE) as client:
        answer = await client.post("/peels/savepoints", headers=alice.headers)
    assert (answer.status_code, answer.json()["text"]) == (201, "orm inserted released")
    assert await titles(sql) == ["orm", "inserted", "released"]
    assert len(errors) == 2


async def rolled_back(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "undone")
    await session.rollback()
    await add(session, me, "kept")
    return Answer()


async def rolled_back_by_the_sync_session(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "undone")
    await session.run_sync(lambda sync_session: sync_session.rollback())
    await add(session, me, "kept")
    return Answer()


async def rolled_back_by_the_connection(me: CurrentUser, session: Session) -> Answer:
    connection = await session.connection()
    await add(session, me, "undone")
    await connection.rollback()
    await connection.execute(
        text("INSERT INTO peelings (title, owner_id) VALUES ('kept', :me)"), {"me": me.id}
    )
    return Answer()


async def rolled_back_with_the_orm(me: CurrentUser, session: Session) -> Answer:
    session.add(Peeling(title="undone", owner_id=me.id))
    await session.flush()
    await add(session, me, "undone")
    await session.rollback()
    session.add(Peeling(title="kept", owner_id=me.id))
    return Answer()


@pytest.mark.parametrize(
    "handler",
    [
        *(rolled_back, rolled_back_by_the_sync_session, rolled_back_with_the_orm),
    ],
)
async def test_a_rollback_undoes_all_of_it_and_work_goes_on(mount, alice, sql, handler):
    key = {"Idempotency-Key": "a-key"}
    async with mount(router_with(handler), **ONE) as client:
        client.headers.update(alice.headers)
        url = f"/peels/{handler.__name__}"
        assert (await client.post(url)).status_code == 201
        assert await titles(sql) == ["kept"]
        for replayed in (None, "true"):
            answer = await client.post(url, headers=key)
            assert answer.status_code == 201
            assert answer.headers.get("idempotent-replayed") == replayed
        assert await titles(sql) == ["kept", "kept"]


async def test_a_rollback_of_the_connection_under_its_session_is_no_success(mount, alice, sql):
    async with mount(router_with(rolled_back_by_the_connection), **ONE) as client:
        url = "/peels/rolled_back_by_the_connection"
        assert (await client.post(url, headers=alice.headers)).status_code == 500
        assert client.app.state.resources.writer.in_use() == 0
    assert await titles(sql) == []  # SQLAlchemy: "This transaction is inactive"


async def commits(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "too soon")
    await session.commit()
    return Answer()


async def commits_by_the_sync_session(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "too soon")
    await session.run_sync(lambda sync_session: sync_session.commit())
    return Answer()


async def commits_by_the_connection(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "too soon")
    await (await session.connection()).commit()
    return Answer()


async def goes_on_after_a_refusal(me: CurrentUser, session: Session) -> Answer:
    session.add(Peeling(title="first", owner_id=me.id))
    await session.flush()
    for commit in (session.commit, session.close):
        with suppress(RuntimeError):
            await commit()
    await add(session, me, "second")
    return Answer()


async def test_a_refusal_that_was_caught_has_changed_nothing(mount, alice, sql):
    async with mount(router_with(goes_on_after_a_refusal)) as client:
        answer = await client.post("/peels/goes_on_after_a_refusal", headers=alice.headers)
    assert (answer.status_code, await titles(sql)) == (201, ["first", "second"])


async def begins(session: Session) -> Answer:
    async with session.begin():
        await session.exec(text("UPDATE peelings SET title = 'too soon'"))
    return Answer()


async def closes(me: CurrentUser, session: Session) -> Answer:
    async with session:
        await add(session, me, "too soon")
    return Answer()


REFUSED = [commits, commits_by_the_sync_session, commits_by_the_connection, begins, closes]


@pytest.mark.parametrize("handler", REFUSED)
async def test_a_commit_of_the_handlers_own_is_refused_with_a_sentence(
    mount, alice, sql, log, handler
):
    async with mount(router_with(handler), **ONE) as client:
        client.headers.update(alice.headers)
        for _ in range(3):
            assert (await client.post(f"/peels/{handler.__name__}")).status_code == 500
        assert client.app.state.resources.writer.in_use() == 0
    assert await titles(sql) == []
    assert "the request boundary commits" in log.lines("ERROR")[0]["exception"]


@pytest.mark.parametrize("word", ["COMMIT", "ROLLBACK"])
async def test_the_end_of_a_transaction_that_was_sent_as_a_statement_is_no_success(
    mount, alice, log, word
):
    async def ends(me: CurrentUser, session: Session) -> Answer:
        await add(session, me, "somewhere")
        await session.exec(text(word))
        return Answer()

    async with mount(router_with(ends, count), **ONE) as client:
        client.headers.update(alice.headers)
        assert (await client.post("/peels/ends")).status_code == 500
        assert (await client.post("/peels/count")).status_code == 201
    assert "must not begin or end the transaction" in log.lines("ERROR")[0]["exception"]


async def flushes(me: CurrentUser, session: Session) -> Answer:
    session.add(Peeling(title="new", owner_id=me.id))
    [seen] = await session.all(PeelingPublic, select(Peeling))
    peeling = await session.get(Peeling, seen.id)
    peeling.title = "changed"
    [again] = await session.all(PeelingPublic, select(Peeling))
    return Answer(text=again.title)


async def test_a_query_sees_what_the_orm_has_not_flushed_yet(mount, alice, sql):
    async with mount(router_with(flushes)) as client:
        answer = await client.post("/peels/flushes", headers=alice.headers)
    assert answer.json() == {"text": "changed"}
    assert await titles(sql) == ["changed"]


# A connection goes back clean.


LEAVINGS = {
    "setting": ("SET statement_timeout = '7s'", "SHOW statement_timeout"),
    "path": ("SET search_path = pg_catalog", "SHOW search_path"),
    "role": ("SET ROLE pg_monitor", "SELECT current_user::text"),
    "time zone": ("SET TIME ZONE 'Asia/Tokyo'", "SHOW timezone"),
    "function": (
        "SELECT set_config('lock_timeout', '7s', false)",
        "SELECT current_setting('lock_timeout')",
    ),
    "own setting": (
        "SELECT set_config('my.tenant', '7', false)",
        "SELECT nullif(current_setting('my.tenant', true), '')",
    ),
    "lock": (
        "SELECT pg_advisory_lock(7)",
        (
            "SELECT count(*)::text FROM pg_locks"
            " WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        ),
    ),
    "table": (
        "CREATE TEMP TABLE leavings (id int)",
        "SELECT coalesce(to_regclass('pg_temp.leavings')::text, '-')",
    ),
    "cursor": (
        "DECLARE leavings CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*)::text FROM pg_cursors WHERE name = 'leavings'",
    ),
}


def leaving_router(leave, show):
    router = Router(prefix="/peels", tags=["peels"])

    async def look(rows):
        [[seen]] = await rows.fetch(text(show))
        return Answer(text=f"{seen}")

    @router.post("/leave")
    async def leave_by_text(session: Session) -> Answer:
        await session.exec(text(leave))
        return Answer()

    @router.post("/fetch")
    async def leave_by_fetch(session: Session) -> Answer:
        await session.fetch(text(leave))
        return Answer()

    @router.post("/fail")
    async def leave_and_fail(session: Session) -> Answer:
        await session.exec(text(leave))
        raise ValueError

    @router.post("/look")
    async def look_in_a_write(session: Session) -> Answer:
        return await look(session)

    @router.get("/leave")
    async def leave_by_the_reader(reader: Reader) -> Answer:
        await reader.fetch(text(leave))
        return Answer()

    @router.get("/look")
    async def look_in_a_read(reader: Reader) -> Answer:
        return await look(reader)

    return router


@pytest.mark.parametrize("what", LEAVINGS)
async def test_what_a_request_leaves_on_its_connection_is_not_seen_by_the_next(
    mount, app, sql, what
):
    async with mount(leaving_router(*LEAVINGS[what]), **ONE, read_pool_size=1) as client:
        before = [(await client.request(method, "/peels/look")).text for method in ("POST", "GET")]
        for path in ("leave", "fetch", "fail", "leave"):
            await client.post(f"/peels/{path}")
            assert (await client.post("/peels/look")).text == before[0]
        await client.get("/peels/leave")
        assert (await client.get("/peels/look")).text == before[1]


async def test_a_level_of_isolation_is_the_routers_to_set(mount, alice, log):
    router = Router(prefix="/peels", tags=["peels"], isolation="repeatable_read")

    async def show(session: Session) -> Answer:
        return Answer(text=(await session.exec(text("SHOW transaction_isolation"))).scalar())

    router.post("/repeatable")(show)
    router.post("/serializable", isolation="serializable")(show)
    plain = Router(prefix="/peels", tags=["peels"])
    plain.post("/plain")(show)

    @plain.post("/option")
    async def by_an_option(session: Session) -> Answer:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        return Answer()

    plain.include_router(router)
    async with mount(router, **ONE) as client:
        client.app.include_router(plain)
        seen = {
            name: (await client.post(f"/peels/{name}")).json().get("text")
            for name in ("repeatable", "plain", "serializable", "plain", "option", "plain")
        }
    assert seen == {
        "repeatable": "repeatable read",
        "serializable": "serializable",
        "plain": "read committed",
        "option": None,
    }
    assert "Router(isolation=...)" in log.lines("ERROR")[0]["exception"]


# Doors.


async def beside(tasks: BackgroundTasks, me: CurrentUser, session: Session) -> Answer:
    async def later():
        async with open_session() as own:
            await add(own, me, "later")

    async def fail():
        async with open_session() as own:
            await add(own, me, "undone")
            raise RuntimeError

    async with open_session() as own:
        await add(own, me, "beside")
    await asyncio.gather(fail(), return_exceptions=True)
    await add(session, me, "mine")
    tasks.add_task(later)
    return Answer()


async def beside_one_that_fails(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "undone")
    async with open_session() as own:
        await add(own, me, "stays")
    raise ValueError


async def test_an_independent_session_stands_and_falls_by_itself(mount, alice, sql):
    async with mount(router_with(beside, beside_one_that_fails), **ONE) as client:
        client.headers.update(alice.headers)
        assert (await client.post("/peels/beside")).status_code == 201
        assert await titles(sql) == ["beside", "mine", "later"]
        await sql.execute("DELETE FROM peelings")
        assert (await client.post("/peels/beside_one_that_fails")).status_code == 500
        assert await titles(sql) == ["stays"]
        assert client.app.state.resources.writer.in_use() == 0


async def test_an_independent_session_may_commit_as_sqlalchemy_documents_it(app, alice, sql):
    async def add_one(session, title):
        await session.insert(Peeling, PeelingPublic, title=title, owner_id=alice.user_id)

    with suppress(ZeroDivisionError):
        async with open_session(app) as session:
            async with session.begin():
                await add_one(session, "begun")
            await add_one(session, "committed")
            await session.commit()
            session.add(Peeling(title="added", owner_id=alice.user_id))
            await session.commit()
            await add_one(session, "undone")
            raise ZeroDivisionError
    assert await titles(sql) == ["begun", "committed", "added"]
    async with open_session(app, isolation="serializable") as session:
        [[level]] = await session.fetch(text("SHOW transaction_isolation"))
        await session.exec(delete(Peeling))
    assert (level, await titles(sql)) == ("serializable", [])
    with pytest.raises(RuntimeError, match=r"open_session\(app\)"):
        async with open_session():
            pass


async def calls_back(me: CurrentUser, session: Session, fail: bool = False) -> Answer:
    async def note(word):
        async with open_session() as own:
            errors.append((word, len(await own.all(PeelingPublic, select(Peeling)))))

    def break_down():
        raise ValueError

    session.after_commit(note, "undone")
    await session.rollback()
    session.after_commit(note, "undone, too")
    await add(session, me, "undone")
    await session.run_sync(lambda sync_session: sync_session.rollback())
    async with session.begin_nested():
        session.after_commit(note, "released")
    nested = await session.begin_nested()
    async with session.begin_nested():
        session.after_commit(note, "undone with what is around it")
    await nested.rollback()
    session.after_commit(break_down)
    session.after_commit(note, "called")
    await add(session, me, "mine")
    if fail:
        raise ValueError
    return Answer()


async def test_what_is_to_be_called_after_a_commit_is_called_then_and_only_then(mount, alice, log):
    url = "/peels/calls_back"
    async with mount(router_with(calls_back), **ONE) as client:
        client.headers.update(alice.headers)
        assert (await client.post(url)).status_code == 201
        assert errors == [("released", 1), ("called", 1)]
        assert log.lines("ERROR")[0]["message"] == "a callback after a commit has failed"
        assert (await client.post(f"{url}?fail=1")).status_code == 500
        assert (await client.post(url, headers={"Prefer": "tx=rollback"})).status_code == 201
        assert len(errors) == 2
        for _ in range(2):
            await client.post(url, headers={"Idempotency-Key": "a-key"})
        assert errors[2:] == [("released", 2), ("called", 2)]


async def test_an_independent_session_calls_back_for_what_it_has_committed(app, alice):
    with suppress(ZeroDivisionError):
        async with open_session(app) as session:
            session.after_commit(errors.append, "first")
            await add(session, Principal(alice.user_id, "member"), "first")
            await session.commit()
            assert errors == []
            session.after_commit(errors.append, "undone")
            await add(session, Principal(alice.user_id, "member"), "undone")
            raise ZeroDivisionError
    assert errors == ["first"]


async def goes_on_after_a_cut(me: CurrentUser, session: Session) -> Answer:
    await add(session, me, "undone")
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await session.fetch(select(func.pg_sleep(5)))
    await add(session, me, "undone")
    return Answer()


async def test_a_session_whose_statement_was_cut_off_goes_no_further(mount, alice, sql, log):
    async with mount(router_with(goes_on_after_a_cut), **ONE) as client:
        answer = await client.post("/peels/goes_on_after_a_cut", headers=alice.headers)
        assert answer.status_code == 500
        await until(is_idle(client), 3)
    assert await titles(sql) == []
    assert "was cut off" in log.lines("ERROR")[0]["exception"]


async def copies(me: CurrentUser, session: Session, undo: bool = False) -> Answer:
    async with session.driver_connection() as connection:
        rows = [(f"row {number}", me.id) for number in range(1000)]
        await connection.copy_records_to_table(
            "peelings", records=rows, columns=["title", "owner_id"]
        )
        async with connection.transaction():
            await connection.execute("UPDATE peelings SET description = 'copied'")
    if undo:
        raise ValueError
    return Answer(text=f"{len(await session.fetch(select(Peeling)))}")


async def test_rows_that_are_copied_in_are_part_of_the_unit_of_work(mount, alice, sql):
    async with mount(router_with(copies), **ONE) as client:
        client.headers.update(alice.headers)
        assert (await client.post("/peels/copies?undo=1")).status_code == 500
        assert await titles(sql) == []
        assert (await client.post("/peels/copies")).json() == {"text": "1000"}
        assert len(await titles(sql)) == 1000


async def test_a_connection_of_ones_own_can_listen(app, sql):
    heard = asyncio.Queue()
    async with open_connection(app) as connection:
        await connection.add_listener("peeled", lambda *given: heard.put_nowait(given[-1]))
        await sql.execute("NOTIFY peeled, 'leek'")
        assert await asyncio.wait_for(heard.get(), 2) == "leek"
