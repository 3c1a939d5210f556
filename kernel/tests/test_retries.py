"""A write that is tried again begins at its beginning, and only for what the database has done."""

import asyncio
from contextvars import ContextVar
from typing import Annotated, Any

import asyncpg
import pytest
from fastapi import BackgroundTasks, Body, Depends, Form, Request, Response, UploadFile
from sqlalchemy import text

from kernel.data.independent import open_session
from kernel.data.models import Dto
from kernel.http.dependencies import Session
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.tests.peelings.models import Peeling, PeelingPublic

MEGABYTE = 1024 * 1024
seen = []


class Answer(Dto):
    text: str = ""


@pytest.fixture(autouse=True)
def forget():
    seen.clear()


async def add(session, me, title):
    return await session.insert(Peeling, PeelingPublic, title=title[:200], owner_id=me.id)


def router_with(*handlers, **options):
    router = Router(prefix="/peels", tags=["peels"])
    for handler in handlers:
        router.post(f"/{handler.__name__}", status_code=201, **options)(handler)
    return router


# What a further attempt is given.


async def takes_files(
    files: list[UploadFile], note: Annotated[str, Form()], me: CurrentUser, session: Session
) -> Answer:
    contents = [await file.read() for file in files]
    for file in files:
        await file.close()
    await add(session, me, note)
    return Answer(text=f"{note} {[len(content) for content in contents]} {contents[0][:3]!r}")


async def takes_a_stream(request: Request, me: CurrentUser, session: Session) -> Answer:
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
    await add(session, me, "stream")
    return Answer(text=f"{length}")


async def changes_its_body(
    data: Annotated[dict[str, Any], Body()], me: CurrentUser, session: Session
) -> Answer:
    data["list"].append("changed")
    data["runs"] = data.get("runs", 0) + 1
    await add(session, me, "body")
    return Answer(text=f"{data['list']} {data['runs']}")


class Shopping(Dto):
    things: list[str]


async def changes_its_model(data: Shopping, me: CurrentUser, session: Session) -> Answer:
    data.things.append("changed")
    await add(session, me, "model")
    return Answer(text=f"{data.things}")


async def remembers(request: Request, me: CurrentUser, session: Session) -> Answer:
    request.state.runs = getattr(request.state, "runs", 0) + 1
    await add(session, me, "state")
    return Answer(text=f"{request.state.runs}")


@pytest.mark.parametrize("key", [None, "a-key"])
@pytest.mark.parametrize(
    ("handler", "content", "text"),
    [
        (
            takes_files,
            {
                "files": [("files", b"x" * 3 * MEGABYTE), ("files", b"12345678")],
                "data": {"note": "soup"},
            },
            f"soup [{3 * MEGABYTE}, 8] b'xxx'",
        ),
        (takes_a_stream, {"content": b"x" * 3 * MEGABYTE}, f"{3 * MEGABYTE}"),
        (takes_a_stream, {}, "0"),
        (changes_its_body, {"json": {"list": ["a"]}}, "['a', 'changed'] 1"),
        (changes_its_model, {"json": {"things": ["a"]}}, "['a', 'changed']"),
        (remembers, {}, "1"),
    ],
)
async def test_a_further_attempt_sees_what_the_first_one_saw(
    mount, alice, sql, fail_first, handler, content, text, key
):
    await fail_first(times=2)
    headers = {**alice.headers, **({"Idempotency-Key": key} if key else {})}
    async with mount(router_with(handler), max_body_bytes=4 * MEGABYTE) as client:
        url = f"/peels/{handler.__name__}"
        answer = await client.post(url, headers=headers, **content)
    assert (answer.status_code, answer.json().get("text")) == (201, text)
    assert await sql.fetchval("SELECT last_value FROM tries") == 3
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 1


async def test_a_further_attempt_sees_the_state_that_a_middleware_has_set(mount, alice, fail_first):
    await fail_first()
    async with mount(router_with(remembers)) as client:
        inner = client.app.build_middleware_stack()

        async def with_state(scope, receive, send):
            Request(scope).state.others = "kept"
            await inner(scope, receive, send)

        client.app.middleware_stack = with_state
        answer = await client.post("/peels/remembers", headers=alice.headers)
    assert answer.json() == {"text": "1"}


async def a_lock():
    seen.append("opened")
    try:
        yield
    except asyncpg.SerializationError:
        seen.append("told")
        raise
    finally:
        seen.append("closed")


async def depends(
    tasks: BackgroundTasks,
    response: Response,
    _: Annotated[None, Depends(a_lock)],
    __: Annotated[None, Depends(a_lock, scope="function", use_cache=False)],
    *,
    me: CurrentUser,
    session: Session,
) -> Answer:
    seen.append("run")
    response.headers.append("X-Run", f"{seen.count('run')}")
    tasks.add_task(seen.append, "task")
    await add(session, me, "depends")
    return Answer()


async def test_each_attempt_has_dependencies_of_its_own(mount, alice, fail_first):
    await fail_first()
    async with mount(router_with(depends)) as client:
        answer = await client.post("/peels/depends", headers=alice.headers)
    assert answer.headers.get_list("x-run") == ["2"]
    failed = ["opened", "opened", "run", "told", "closed", "told", "closed"]
    assert seen == [*failed, "opened", "opened", "run", "closed", "task", "closed"]


async def swallows():
    try:
        yield
    except asyncpg.SerializationError:
        seen.append("swallowed")


async def is_swallowed(
    _: Annotated[None, Depends(swallows)], me: CurrentUser, session: Session
) -> Answer:
    await add(session, me, "swallowed")
    return Answer()


async def test_an_error_that_a_dependency_swallows_is_no_success(
    mount, alice, sql, fail_first, log
):
    await fail_first()
    async with mount(router_with(is_swallowed)) as client:
        answer = await client.post("/peels/is_swallowed", headers=alice.headers)
    assert (answer.status_code, seen) == (500, ["swallowed"])
    assert "FastAPIError" in log.lines("ERROR")[0]["exception"]
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 0


async def answers_in_turn(me: CurrentUser, session: Session) -> PeelingPublic | Answer:
    seen.append("run")
    made = await add(session, me, "first") if len(seen) == 1 else None
    if made:
        async with session.driver_connection() as connection:
            await connection.execute("DO $$ BEGIN RAISE 'x' USING ERRCODE = '40001'; END $$")
    return Answer()


async def test_an_answer_has_no_tag_of_an_earlier_attempts_row(mount, alice):
    async with mount(router_with(answers_in_turn)) as client:
        answer = await client.post("/peels/answers_in_turn", headers=alice.headers)
    assert (answer.status_code, len(seen)) == (201, 2)
    assert "etag" not in answer.headers


# What is not tried again.

FOREIGN = ContextVar("FOREIGN")


async def a_mail_server_hangs_up():
    raise ConnectionResetError("the mail server hung up")


async def a_payment_takes_too_long():
    async with asyncio.timeout(0.001):
        await asyncio.sleep(1)


async def a_disk_is_full():
    raise OSError(28, "No space left on device")


async def another_database_is_shutting_down():
    raise asyncpg.AdminShutdownError("another one's")


async def another_database_refuses_a_twin():
    raise asyncpg.UniqueViolationError("another one's")


async def another_database_cannot_serialize():
    connection = await asyncpg.connect(FOREIGN.get())
    try:
        await connection.execute("DO $$ BEGIN RAISE 'x' USING ERRCODE = '40001'; END $$")
    finally:
        await connection.close()


async def a_swallowed_refusal_is_followed_by_an_own_error():
    raise ExceptionGroup("several", [ConnectionError(), ValueError()])


@pytest.mark.parametrize(
    "fail",
    [
        *(a_mail_server_hangs_up, a_payment_takes_too_long, a_disk_is_full),
        *(another_database_is_shutting_down, another_database_refuses_a_twin),
        *(another_database_cannot_serialize, a_swallowed_refusal_is_followed_by_an_own_error),
    ],
)
async def test_an_error_of_the_handlers_own_is_an_error_once(
    mount, alice, sql, log, database_url, fail
):
    FOREIGN.set(database_url)

    async def has_an_error(me: CurrentUser, session: Session) -> Answer:
        await add(session, me, "undone")
        seen.append("run")
        await fail()
        return Answer()

    async with mount(router_with(has_an_error)) as client:
        answer = await client.post("/peels/has_an_error", headers=alice.headers)
    assert (answer.status_code, seen) == (500, ["run"])
    assert "retry-after" not in answer.headers
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 0
    [line] = log.lines("ERROR")
    assert fail.__name__ in line["exception"]
    assert not log.lines("WARNING")


async def fails_beside(me: CurrentUser, session: Session) -> Answer:
    seen.append("run")
    async with open_session() as own:
        await add(own, me, "beside")
    return Answer()


async def test_an_independent_sessions_failure_is_tried_again_with_the_request(
    mount, alice, sql, fail_first
):
    await fail_first()
    async with mount(router_with(fails_beside)) as client:
        answer = await client.post("/peels/fails_beside", headers=alice.headers)
    assert (answer.status_code, seen) == (201, ["run", "run"])
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 1


async def counts_its_runs(me: CurrentUser, session: Session) -> Answer:
    seen.append("run")
    await add(session, me, "runs")
    return Answer()


@pytest.mark.parametrize(("retries", "runs"), [(0, 1), (1, 2), (4, 5)])
async def test_how_often_it_is_tried_again_is_the_routers_or_the_operations_to_say(
    mount, alice, fail_first, retries, runs
):
    await fail_first(times=10)
    router = Router(prefix="/peels", tags=["peels"], retries=retries)
    router.post("/by_router")(counts_its_runs)
    async with mount(router) as client:
        client.app.include_router(router_with(counts_its_runs, retries=retries))
        client.headers.update(alice.headers)
        for path in ("by_router", "counts_its_runs"):
            answer = await client.post(f"/peels/{path}")
            assert (answer.status_code, len(seen)) == (409, runs)
            assert answer.headers["retry-after"] == "1"
            seen.clear()


async def test_connections_that_died_idle_are_noticed_by_nobody(mount, alice, end_connections):
    """Nothing is lost with them, so that even what must not run twice gets another one."""

    async def beside(me: CurrentUser) -> Answer:
        async with open_session() as own:
            await add(own, me, "beside")
        return Answer()

    router = router_with(counts_its_runs, beside, retries=0)
    async with mount(router, statement_timeout=0.2) as client:
        client.headers.update(alice.headers)
        for _ in range(2):
            for path in ("counts_its_runs", "beside"):
                answers = [client.post(f"/peels/{path}") for _ in range(3)]
                answers = await asyncio.gather(*answers)
                assert {answer.status_code for answer in answers} == {201}
            await end_connections()
            await asyncio.sleep(0.5)  # longer than a transaction may lie idle


@pytest.mark.parametrize("way", ["insert", "orm", "commit"])
async def test_a_connection_that_was_lost_while_the_handler_was_busy_is_tried_again(
    mount, alice, sql, way
):
    async def is_busy(me: CurrentUser, session: Session) -> Answer:
        seen.append("run")
        await add(session, me, "before")
        if len(seen) == 1:
            [[pid]] = await session.fetch(text("SELECT pg_backend_pid()"))
            await sql.execute("SELECT pg_terminate_backend($1)", pid)
            await asyncio.sleep(0.1)
        if way == "insert":
            await add(session, me, "after")
        elif way == "orm":
            session.add(Peeling(title="after", owner_id=me.id))
        return Answer()

    async with mount(router_with(is_busy)) as client:
        answer = await client.post("/peels/is_busy", headers=alice.headers)
    assert (answer.status_code, seen) == (201, ["run", "run"])
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 1 + (way != "commit")


@pytest.mark.parametrize("way", ["insert", "orm", "commit"])
async def test_a_handler_that_lets_its_transaction_lie_is_told_so_and_runs_once(
    mount, alice, sql, log, way
):
    """It would be ended again: the mail that takes so long would be sent three times."""

    async def takes_long(me: CurrentUser, session: Session) -> Answer:
        seen.append("run")
        await add(session, me, "undone")
        await asyncio.sleep(1.5)
        if way == "insert":
            await add(session, me, "undone")
        elif way == "orm":
            session.add(Peeling(title="undone", owner_id=me.id))
        return Answer()

    async with mount(router_with(takes_long), statement_timeout=0.5) as client:
        answer = await client.post("/peels/takes_long", headers=alice.headers)
    assert (answer.status_code, seen) == (500, ["run"])
    assert "the transaction lay idle" in log.lines("ERROR")[0]["exception"]
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 0


async def test_a_connection_that_was_lost_is_no_reason_to_do_it_again_without_retries(
    mount, alice, sql
):
    async def is_cut_off(me: CurrentUser, session: Session) -> Answer:
        seen.append("run")
        async with session.driver_connection() as connection:
            pid = connection.get_server_pid()
        await sql.execute("SELECT pg_terminate_backend($1)", pid)
        await add(session, me, "cut off")
        return Answer()

    for retries in (0, 1):
        seen.clear()
        async with mount(router_with(is_cut_off, retries=retries)) as client:
            answer = await client.post("/peels/is_cut_off", headers=alice.headers)
        assert (answer.status_code, answer.json()["reason"]) == (503, "unreachable")
        assert seen == ["run"] * (retries + 1)
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 0
