"""A request has a deadline until its answer begins, and what was cut off is told as it is."""

import asyncio
import gc
import math
import time

import httpx
import pytest
from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select, text
from starlette.middleware.base import BaseHTTPMiddleware

from kernel.context import current_context
from kernel.data.independent import open_session
from kernel.http import deadlines
from kernel.http.deadlines import set_timeout
from kernel.http.dependencies import Reader, Session
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.reminders import Reminders
from kernel.tests.peelings.models import Peeling, PeelingPublic
from kernel.tests.processes import until

SECONDS = 0.4
seen = []


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    seen.clear()
    monkeypatch.setattr(deadlines, "_reminders", Reminders())


@pytest.fixture
def served(mount):
    """Serve an operation that has little time."""

    def served(handler, method="GET", make=Router, options=None, **of_operation):
        little = {"timeout": SECONDS} if make is Router else {}
        router = make(prefix="/peels", tags=["peels"], **(options or little))
        router.api_route("", methods=[method], **of_operation)(handler)
        return mount(
            router, **({} if make is Router else {"request_timeout": SECONDS}), slow_request=9
        )

    return served


@pytest.fixture
def ask(served, alice):
    """The answer of an operation, how long it took, and that it has left nothing behind."""

    async def ask(handler, method="GET", make=Router, **options):
        async with served(handler, method, make, **options) as client:
            if make is Router:  # connections are open then
                await client.get("/peelings", headers=alice.headers)
                await client.patch("/users/me", json={}, headers=alice.headers)
            began = time.monotonic()
            answer = await client.request(method, "/peels", headers=alice.headers)
            took = time.monotonic() - began
            assert asyncio.current_task().cancelling() == 0
            resources = client.app.state.resources

            async def is_idle():
                return resources.writer.in_use() == 0

            await until(is_idle, 2)
            if make is Router:
                assert (await client.get("/peelings", headers=alice.headers)).status_code == 200
            return answer, took

    return ask


def is_late(answer, took, reason, *, again="1"):
    problem = answer.json()
    assert (answer.status_code, problem["reason"]) == (503, reason)
    assert answer.headers.get("retry-after") == again
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == problem["request_id"]
    return SECONDS <= took < SECONDS + 2


def count_from_here() -> None:
    """Give the request its little time anew: what it did before may take long on a busy machine."""
    set_timeout(time.perf_counter() - current_context().started + SECONDS)


async def waits() -> None:
    await asyncio.sleep(20)


async def test_who_waits_for_too_long_is_told_to_come_again_and_the_log_tells_where(ask, log):
    assert is_late(*await ask(waits), "timeout")
    [line] = log.lines("WARNING")
    assert (line["message"], line["route"]) == ("the request took too long", "/peels")
    assert "in waits" in line["exception"]
    assert line["seconds"] >= SECONDS
    assert line["failures"] == 1


async def test_an_operation_of_fastapis_own_has_a_deadline(ask):
    assert is_late(*await ask(waits, make=APIRouter), "timeout")


async def test_a_handler_that_is_no_coroutine_is_waited_for_no_longer(ask):
    def blocks() -> None:
        time.sleep(2 * SECONDS)

    answer, took = await ask(blocks)
    assert is_late(answer, took, "timeout")
    await to_thread.run_sync(time.sleep, 1.2 * SECONDS)  # so that its thread has ended


async def test_a_middleware_that_runs_the_app_in_a_task_of_its_own_changes_nothing(mount):
    router = Router(prefix="/peels", tags=["peels"])
    router.get("")(waits)

    async def passes(request, call_next):
        return await call_next(request)

    async with mount(router, request_timeout=SECONDS, slow_request=9) as client:
        app = client.app
        app.middleware_stack = None
        middleware = app.user_middleware
        app.middleware_stack = app.build_middleware_stack()
        inner = app.middleware_stack.app.app  # behind the service's own
        app.middleware_stack.app.app = BaseHTTPMiddleware(inner, dispatch=passes)
        assert middleware
        answer = await client.get("/peels")
    assert (answer.status_code, answer.json()["reason"]) == (503, "timeout")


SLEEP = select(func.pg_sleep(20).label("slept"))


async def test_a_query_that_is_cut_off_is_told_as_one_that_took_too_long(ask, log):
    async def reads(reader: Reader) -> None:
        await reader.fetch(SLEEP)

    assert is_late(*await ask(reads), "slow")
    [line] = log.lines("WARNING")
    assert "pg_sleep" in line["exception"]


async def test_a_write_that_is_cut_off_before_its_commit_is_not_done(ask, sql):
    async def writes(me: CurrentUser, session: Session) -> None:
        await session.insert(Peeling, PeelingPublic, title="cut off", owner_id=me.id)
        await session.exec(text("SELECT pg_sleep(20)"))

    assert is_late(*await ask(writes, "POST"), "slow")
    assert await sql.fetchval("SELECT count(*) FROM peelings WHERE title = 'cut off'") == 0


async def test_a_write_that_waits_for_something_else_with_rows_changed_is_not_done(ask, sql):
    async def writes(me: CurrentUser, session: Session) -> None:
        session.add(Peeling(title="waits", owner_id=me.id))
        await session.flush()
        count_from_here()
        await asyncio.sleep(20)

    assert is_late(*await ask(writes, "POST", timeout=20), "timeout")
    assert await sql.fetchval("SELECT count(*) FROM peelings WHERE title = 'waits'") == 0


class Late(Response):
    """An answer that is long in coming."""

    async def __call__(self, *_):
        count_from_here()
        await asyncio.sleep(20)


async def test_who_is_cut_off_after_the_commit_is_not_told_to_try_again(ask, sql):
    async def writes(me: CurrentUser, session: Session) -> Response:
        await session.insert(Peeling, PeelingPublic, title="done", owner_id=me.id)
        return Late()

    answer, took = await ask(writes, "POST", timeout=20)
    assert is_late(answer, took, "timeout", again=None)
    assert answer.json()["message"] == "the outcome is unknown; check it before you try again"
    assert await sql.fetchval("SELECT count(*) FROM peelings WHERE title = 'done'") == 1


async def test_what_was_committed_beside_the_work_does_not_count_as_its_own(ask):
    async def writes(me: CurrentUser, session: Session) -> None:
        async with open_session() as aside:
            await aside.insert(Peeling, PeelingPublic, title="aside", owner_id=me.id)
        count_from_here()
        await asyncio.sleep(20)

    assert is_late(*await ask(writes, "POST", timeout=20), "timeout")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("place", ["router", "operation"])
async def test_a_router_or_an_operation_may_have_another_time(ask, method, place):
    async def waits_a_little() -> None:
        await asyncio.sleep(2 * SECONDS)

    for seconds, status in ((5, 200), (math.inf, 200), (SECONDS / 2, 503)):
        if place == "router":
            answer, took = await ask(waits_a_little, method, options={"timeout": seconds})
        else:
            options = {"timeout": 0.1}  # the operation's own counts
            answer, took = await ask(waits_a_little, method, options=options, timeout=seconds)
        assert answer.status_code == status
        assert took < 5


@pytest.mark.parametrize("method", ["get", "head", "post", "put", "patch", "delete"])
def test_an_operation_of_each_method_may_have_another_time(method):
    async def report() -> None: ...

    router = Router()
    getattr(router, method)("/report", timeout=60, retries=0)(report)
    [route] = router.routes
    assert (route.timeout, route.retries) == (60, 0)


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_no_time_at_all_is_refused(seconds):
    with pytest.raises(ValueError, match="above 0"):
        Router(timeout=seconds)


async def test_the_time_that_a_body_takes_does_not_count(served, alice):
    async def takes(request: Request) -> int:
        return len(await request.body())

    async def slow_body():
        for _ in range(4):
            yield b"x" * 10
            await asyncio.sleep(SECONDS / 2)

    async with served(takes, "POST") as client:
        transport = Slowly(client.app, slow_body)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as slow:
            answer = await slow.post("/peels", headers=alice.headers)
    assert (answer.status_code, answer.json()) == (200, 40)


class Slowly(httpx.ASGITransport):
    """A client whose body comes piece by piece, which httpx's would first collect."""

    def __init__(self, app, make_body):
        async def slow(scope, receive, send):
            pieces = make_body()

            async def receive_slowly():
                piece = await anext(pieces, None)
                return {
                    "type": "http.request",
                    "body": piece or b"",
                    "more_body": piece is not None,
                }

            await app(scope, receive_slowly, send)

        super().__init__(slow)


async def test_an_answer_that_has_begun_and_what_is_done_behind_it_have_no_deadline(ask):
    async def streams() -> StreamingResponse:
        async def parts():
            for _ in range(3):
                yield b"part"
                await asyncio.sleep(SECONDS)

        return StreamingResponse(parts())

    async def goes_on(tasks: BackgroundTasks) -> int:
        async def work():
            await asyncio.sleep(3 * SECONDS)
            seen.append("worked")

        tasks.add_task(work)
        return 1

    assert (await ask(streams))[0].content == b"part" * 3
    assert (await ask(goes_on))[0].json() == 1
    assert seen == ["worked"]


async def test_who_catches_it_has_no_further_time(ask):
    async def catches() -> str:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            return "caught"
        return "slept"

    answer, _ = await ask(catches)
    assert (answer.status_code, answer.json()) == (200, "caught")


@pytest.mark.parametrize("at", [0.05, SECONDS, SECONDS + 0.1])
async def test_a_request_that_somebody_else_cancels_is_cancelled(served, alice, at):
    async with served(waits) as client:
        for moment in (at, at * 0.99, at * 1.01):
            request = asyncio.create_task(client.get("/peels", headers=alice.headers))
            await asyncio.sleep(moment)
            request.cancel()
            try:
                answer = await request
            except asyncio.CancelledError:
                continue
            assert answer.status_code == 503  # the deadline came first
            assert at >= SECONDS


async def test_nothing_is_kept_of_requests_that_are_over(served, alice):
    async def answers() -> int:
        return 1

    async with served(answers) as client:
        for _ in range(5):
            assert (await client.get("/peels")).status_code == 200
        await asyncio.sleep(3 * deadlines.CHECK_SECONDS)
        gc.collect()
        kept = [each for each in gc.get_objects() if isinstance(each, deadlines.Deadline)]
        assert kept == []
