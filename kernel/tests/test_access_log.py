"""What the lines of a request tell: where its time went, and what has failed."""

import asyncio
import time

import pytest
from fastapi import HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import SecretStr
from sqlalchemy import Float, Integer, String, bindparam, func, literal_column, select, text
from starlette.responses import Response

from kernel.context import RequestContext, count_query, enter_context, leave_context
from kernel.data.independent import open_session
from kernel.data.models import Dto
from kernel.errors import OutcomeUnknown, Unavailable
from kernel.fast.statements import plan_of
from kernel.http.dependencies import Reader, Session
from kernel.http.router import Router

SECONDS = 0.15
SHORT = text("SELECT 1 AS n")
SLEEP = text("SELECT 1 AS n FROM pg_sleep(:seconds)").bindparams(bindparam("seconds", type_=Float))
# What needs no SQLAlchemy to execute it, once it was met.
PAUSE = func.concat(func.pg_sleep(literal_column("0.15")), type_=String)
PLAIN = select(func.length(PAUSE, type_=Integer).label("n"))
plan_of(PLAIN)
router = Router(prefix="/peels", tags=["peels"])


class Number(Dto):
    n: int


async def by_the_reader(session, reader):
    await reader.fetch(SLEEP, seconds=SECONDS)


async def by_the_reader_itself(session, reader):
    await reader.fetch(PLAIN)


async def by_a_snapshot(session, reader):
    async with reader.snapshot() as snapshot:
        await snapshot.fetch(SLEEP, seconds=SECONDS)


async def by_a_stream(session, reader):
    async for _ in reader.stream(Number, SLEEP, seconds=SECONDS):
        pass


async def by_a_stream_of_plain_types(session, reader):
    async for _ in reader.stream(Number, PLAIN):
        pass


async def by_the_session(session, reader):
    await session.fetch(SLEEP, seconds=SECONDS)


async def by_the_session_itself(session, reader):
    await session.fetch(PLAIN)


async def by_sqlalchemy(session, reader):
    await session.exec(SLEEP, params={"seconds": SECONDS})


async def by_many_at_once(session, reader):
    connection = await session.connection()
    await connection.execute(SLEEP, [{"seconds": SECONDS / 2}, {"seconds": SECONDS / 2}])


async def by_asyncpg(session, reader):
    async with session.driver_connection() as raw:
        await raw.fetchval("SELECT pg_sleep($1)", SECONDS)


async def by_asyncpgs_execute(session, reader):
    async with session.driver_connection() as raw:
        await raw.execute(f"SELECT pg_sleep({SECONDS})")


async def by_copy(session, reader):
    async def rows():
        yield b"x\n"
        await asyncio.sleep(SECONDS + 0.01)  # a loop's timers may be a millisecond early

    async with session.driver_connection() as raw:
        await raw.execute("CREATE TEMP TABLE copied (a text)")
        await raw.copy_to_table("copied", source=rows())


async def by_a_savepoint(session, reader):
    async with session.begin_nested():
        await session.fetch(SLEEP, seconds=SECONDS)


async def by_a_session_of_its_own(session, reader):
    async with open_session() as own:
        await own.fetch(SLEEP, seconds=SECONDS)


async def by_the_commit(session, reader):
    await session.fetch(text("CREATE TEMP TABLE late (a int)"))
    await session.fetch(
        text(
            "CREATE FUNCTION pg_temp.wait() RETURNS trigger LANGUAGE plpgsql AS"
            " $f$ BEGIN PERFORM pg_sleep(0.15); RETURN NULL; END $f$"
        )
    )
    await session.fetch(
        text(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION pg_temp.wait()"
        )
    )
    await session.fetch(text("INSERT INTO late VALUES (1)"))


async def by_one_that_fails(session, reader):
    async with session.begin_nested():
        await session.fetch(text("SELECT 1 / length(s::text) FROM pg_sleep(0.15) AS s"))


WAYS = {name: way for name, way in vars().copy().items() if name.startswith("by_")}


@router.post("/spend/{way}")
async def spend(way: str, session: Session, reader: Reader) -> None:
    await WAYS[way](session, reader)


@router.get("/read")
async def read(reader: Reader, seconds: float) -> None:
    await reader.fetch(SLEEP, seconds=seconds)


@router.get("/stream", response_class=StreamingResponse)
async def stream(request: Request, before: float, after: float) -> StreamingResponse:
    clock = request.app.state.clock

    async def lines():
        yield "begun"
        clock.added += after
        yield "ended"

    clock.added += before
    return StreamingResponse(lines())


@router.get("/broken", response_class=StreamingResponse)
async def broken() -> StreamingResponse:
    async def lines():
        yield "begun"
        raise LookupError

    return StreamingResponse(lines())


@router.post("/upload")
async def upload(request: Request) -> int:
    return sum([len(part) async for part in request.stream()])


FAILURES = {
    "crash": (lambda: 1 / 0, 500, "ZeroDivisionError"),
    "unavailable": (lambda: _raise(Unavailable("later")), 503, "Unavailable"),
    "caused": (lambda: _raise(Unavailable("later"), KeyError("x")), 503, "KeyError"),
    "reason": (lambda: _raise(Unavailable("later", reason="tired")), 503, "tired"),
    "unknown": (lambda: _raise(OutcomeUnknown("?"), ConnectionError()), 503, "ConnectionError"),
    "http": (lambda: _raise(HTTPException(502)), 502, "HTTPException"),
    "response": (lambda: Response(status_code=500), 500, None),
    "client": (lambda: _raise(HTTPException(404)), 404, None),
}


def _raise(error, cause=None):
    raise error from cause


@router.get("/fail/{how}")
async def fail(how: str) -> None:
    return FAILURES[how][0]()


@router.get("/statement")
async def statement(reader: Reader) -> None:
    await reader.fetch(text("SELECT nothing FROM nowhere"))


@router.post("/retried")
async def retried(session: Session, request: Request) -> None:
    await session.fetch(SHORT)
    request.app.state.tries = getattr(request.app.state, "tries", 0) + 1
    if request.app.state.tries < 3:
        await session.fetch(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))


@pytest.fixture
async def caller(mount):
    async with mount(router, slow_request=0.1) as caller:
        yield caller


def access_line(log):
    (line,) = [line for line in log.lines() if line["message"] == "request"]
    return line


def slow_lines(log):
    return [line for line in log.lines("WARNING") if line["message"] == "slow request"]


@pytest.mark.parametrize("way", WAYS)
async def test_whatever_way_a_statement_goes_its_time_is_counted(caller, log, monkeypatch, way):
    spent, spend = [], RequestContext.spend

    def note(context, started, statement, error=None):
        spent.append((time.perf_counter() - started, statement))
        spend(context, started, statement, error)

    monkeypatch.setattr(RequestContext, "spend", note)
    await caller.post(f"/peels/spend/{way}")
    words = {"by_the_commit": "COMMIT", "by_copy": "COPY"}.get(way, "pg_sleep")
    assert max(seconds for seconds, statement in spent if words in statement) >= SECONDS
    line = access_line(log)
    assert sum(seconds for seconds, _ in spent) * 1e3 == pytest.approx(line["db_ms"], abs=5)
    (slow,) = slow_lines(log)
    assert slow["route"] == "/peels/spend/{way}"
    assert slow["statement"] == max(spent)[1]
    assert SECONDS * 1e3 <= slow["statement_ms"] <= slow["db_ms"] <= line["ms"]


async def test_a_slow_request_tells_its_slowest_statement_without_values(caller, log):
    await caller.get("/peels/read?seconds=0.123456")
    (slow,) = slow_lines(log)
    assert (slow["method"], slow["route"]) == ("GET", "/peels/read")
    assert slow["request_id"] == access_line(log)["request_id"]
    assert slow["statement"].startswith("SELECT 1 AS n FROM pg_sleep($1")
    assert "123456" not in str(slow).replace(str(slow["statement_ms"]), "")


class Clock:
    """Real time, and what a test adds to it."""

    added = 0.0

    def perf_counter(self):
        return time.perf_counter() + self.added


@pytest.fixture
async def timed(mount, monkeypatch):
    """A client that finds only what takes a minute slow, and a clock that goes on when told so."""
    clock = Clock()
    for room in ("access_log", "deadlines", "exchange"):
        monkeypatch.setattr(f"kernel.http.{room}.time", clock)
    async with mount(router, slow_request=60) as caller:
        caller.app.state.clock = clock
        yield caller, clock


async def test_a_quick_request_is_not_told_of(timed, log):
    await timed[0].get("/peels/read?seconds=0")
    assert slow_lines(log) == []


async def test_a_stream_is_as_slow_as_its_beginning(timed, log):
    await timed[0].get("/peels/stream?before=0&after=100")
    assert access_line(log)["ms"] >= 100_000
    assert slow_lines(log) == []
    await timed[0].get("/peels/stream?before=100&after=0")
    (slow,) = slow_lines(log)
    assert slow["ms"] >= 100_000
    assert (slow["statement"], slow["statement_ms"]) == (None, 0)


async def test_a_client_that_sends_slowly_makes_no_slow_request(timed, log):
    caller, clock = timed

    async def body():
        for _ in range(3):
            clock.added += 100
            yield b"x"

    assert (await caller.post("/peels/upload", content=body())).json() == 3
    assert access_line(log)["ms"] >= 300_000
    assert slow_lines(log) == []


@pytest.mark.parametrize("how", FAILURES)
async def test_the_line_of_a_failure_tells_what_it_was(caller, log, how):
    _, status, error = FAILURES[how]
    assert (await caller.get(f"/peels/fail/{how}")).status_code == status
    line = access_line(log)
    assert (line["status"], line["error"]) == (status, error)


async def test_the_line_of_a_failed_statement_names_the_databases_error(caller, log):
    assert (await caller.get("/peels/statement")).status_code == 500
    assert access_line(log)["error"] == "UndefinedTableError"


async def test_a_stream_that_broke_off_is_told_of_though_its_status_is_good(caller, log):
    await caller.get("/peels/broken")
    line = access_line(log)
    assert (line["status"], line["error"]) == (200, "LookupError")


async def test_attempts_are_those_of_the_unit_of_work(caller, log):
    assert (await caller.post("/peels/retried")).status_code == 200
    line = access_line(log)
    assert (line["attempts"], line["status"], line["error"]) == (3, 200, None)


async def test_a_request_without_a_unit_of_work_has_no_attempt(caller, log):
    await caller.get("/peels/read?seconds=0")
    assert access_line(log)["attempts"] == 0


async def test_waiting_for_a_connection_is_told_apart(mount, log):
    async with mount(router, read_pool_size=1, pool_timeout=0.2) as caller:
        answers = await asyncio.gather(
            *(caller.get("/peels/read?seconds=0.3") for _ in range(2)),
        )
    assert sorted(answer.status_code for answer in answers) in ([200, 429], [200, 503])
    lines = [line for line in log.lines() if line["message"] == "request"]
    refused = next(line for line in lines if line["status"] != 200)
    assert refused["wait_ms"] >= 190
    assert refused["queries"] == refused["db_ms"] == 0
    assert refused["error"] in (None, "no_connection")


async def test_the_database_that_cannot_be_reached_is_the_lines_error(mount, log, free_tcp_port):
    url = f"postgresql://nobody@127.0.0.1:{free_tcp_port}/none?sslmode=disable"
    settings = {"read_database_url": None, "connect_timeout": 0.5}
    async with mount(router, database_url=SecretStr(url), **settings) as caller:
        answer = await caller.get("/peels/read?seconds=0")
    assert (answer.status_code, answer.json()["reason"]) == (503, "unreachable")
    line = access_line(log)
    assert line["error"] == "unreachable"
    assert line["wait_ms"] > 0


def test_a_statement_is_counted_in_less_than_a_microsecond():
    context = RequestContext()
    token = enter_context(context)
    try:
        best = min(_seconds_of_a_thousand() for _ in range(20))
    finally:
        leave_context(token)
    assert best < 1e-3
    assert context.queries == 20_000


def _seconds_of_a_thousand():
    began = time.perf_counter()
    for _ in range(1000):
        count_query(began, "SELECT 1")
    return time.perf_counter() - began
