"""Work after the commit: what is enqueued, what runs, and what is done once."""

import asyncio
import json
import math
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from itertools import count
from math import e
from typing import Annotated, Any

import httpx
import pytest
import time_machine
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import text

from kernel import metrics
from kernel.data.independent import open_session
from kernel.data.jobs import END, TAKE_TURNS, Job
from kernel.data.models import Dto
from kernel.data.resources import Resources, resources_of
from kernel.data.schedules import make_schedule
from kernel.data.session import WriteSession
from kernel.exposition import render
from kernel.http.dependencies import Session
from kernel.http.job_gauges import NOBODYS, Gauges
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.jobs.queue import Ticks, take
from kernel.jobs.runs import LEASE_SECONDS
from kernel.jobs.tasks import TASKS, task
from kernel.jobs.worker import Worker, working
from kernel.metrics import Values
from kernel.testing.jobs import Jobs
from kernel.tests.peelings.models import Peeling, PeelingPublic
from kernel.tests.processes import until

SECRET = "a secret"
DEEP = json.loads("[" * 210 + "]" * 210)
ON = {"jobs": "on"}
HOUR = timedelta(hours=1)
ROW = "SELECT state, attempts, lease, error, run_at FROM jobs WHERE id = $1"
done: list[Any] = []
here = asyncio.Event()
router = Router(prefix="/chores")


class Colour(Enum):
    RED = "red"


class Shape(BaseModel):
    size: int


class Circle(Shape):
    radius: int


class Aliased(BaseModel):
    size: int = Field(alias="sizeInCm")


class Unspeakable(RuntimeError):
    def __str__(self) -> str:
        raise LookupError


ERRORS = {
    "null": RuntimeError("a\0b"),
    "surrogate": RuntimeError("a\udcffb"),
    "long": RuntimeError("x" * 1_000_000),
    "unspeakable": Unspeakable(),
    "no Exception": BaseException("odd"),
    "exit": SystemExit(3),
    "cancelled": asyncio.CancelledError(),
    "group": ExceptionGroup(SECRET, [LookupError(SECRET)]),
}
IN_VAIN = ExceptionGroup(SECRET, [Job.Failed("no knife")])  # of errors that nobody has raised


class Told(Dto):
    id: int | None


@task
async def peel(session: WriteSession, owner_id: int, title: str = "plain") -> None:
    await session.insert(Peeling, PeelingPublic, title=title, owner_id=owner_id)
    done.append(title)
    if title == "fails":
        raise LookupError(SECRET)
    if title == "gives up":
        raise Job.Failed("no knife")
    if title == "commits":
        await session.commit()
    if title == "beside":
        async with open_session() as other:
            await other.insert(Peeling, PeelingPublic, title="other", owner_id=owner_id)
    session.after_commit(done.append, "committed")


@task(external=True)
async def call(job: Job, resources: Resources, what: str = "") -> None:
    done.append((job.id, job.attempts, what, resources.writer.in_use()))
    if what == "fails":
        raise LookupError(SECRET)


@task(timeout=0.05)
async def sleep(session: Session) -> None:
    await asyncio.sleep(5)


@task(external=True, concurrency=2)
async def wait_here(job: Job) -> None:
    done.append(job.id)
    await here.wait()


@task
async def fail(which: str) -> None:
    raise ERRORS.get(which) or (IN_VAIN if which == "in a group" else Job.Failed("no knife"))


@task(external=True)
async def end_in_an_error(job: Job) -> None:
    done.append(job.id)
    try:
        await here.wait()
    except asyncio.CancelledError:
        raise ConnectionError from None


@task
async def give_up_in_a_group(session: WriteSession) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail(which="in vain"))
        group.create_task(here.wait())


@task(timeout=0.05)
async def go_on(session: WriteSession) -> None:
    """Suppresses its cancellation, as a loop that tries again whatever happens may."""
    await session.fetch(text("SELECT 1"))
    while not here.is_set():
        with suppress(asyncio.CancelledError):
            await here.wait()


@task
async def linger(session: WriteSession) -> None:
    await session.fetch(text("SELECT 1"))
    done.append(1)
    await here.wait()


@task
async def hold(
    colour: Colour = Colour.RED,
    at: datetime | None = None,
    price: Decimal | float = 0,
    data: bytes = b"",
    secret: SecretStr | None = None,
    shape: Shape | None = None,
    words: frozenset[str] = frozenset(),
    size: Annotated[int, Field(ge=0)] = 0,
    alias: Aliased | None = None,
    anything: Any = None,
    numbers: dict[str, int] | None = None,
) -> None:
    done.append([colour, at, price, data, words, size, alias])


@task(every="1h")
async def strike(session: WriteSession) -> None:
    done.append("dong")


@router.post("")
async def enqueue_chore(session: Session, me: CurrentUser, title: str = "plain") -> Told:
    return Told(id=await session.enqueue(peel, owner_id=me.id, title=title))


@router.post("/mistakes")
async def enqueue_wrongly(session: Session, secret: str, me: CurrentUser) -> Told:
    return Told(id=await session.enqueue(peel, owner_id=secret))


@router.post("/failures")
async def fail_behind(session: Session, me: CurrentUser) -> Told:
    await session.enqueue(peel, owner_id=me.id)
    raise RuntimeError


@pytest.fixture(autouse=True)
def nothing_done():
    done.clear()
    here.clear()


@pytest.fixture
async def chores(mount, alice, sql):
    async with mount(router) as client:
        client.headers.update(alice.headers)
        client.user_id = alice.user_id
        yield client


@pytest.fixture
def enqueue(app):
    async def enqueue(*args, **options):
        async with open_session(app) as session:
            return await session.enqueue(*args, **options)

    return enqueue


@asynccontextmanager
async def running(app):
    """Its worker, which no app has in tests by itself."""
    resources = resources_of(app)
    before, resources.settings = resources.settings, resources.settings.model_copy(update=ON)
    try:
        async with working(app):
            yield
    finally:
        resources.settings = before


def has_done(count):
    async def has_done():
        return len(done) >= count

    return has_done


async def state(sql, job_id):
    row = await sql.fetchrow(ROW, job_id)
    return row and tuple(row)[:2]


# Enqueued.


async def test_a_job_runs_after_the_commit_and_is_gone(app, sql, jobs, alice):
    async with open_session(app) as session:
        await session.enqueue(peel, owner_id=alice.user_id)
        called = await session.enqueue(call, what="now")
        assert await jobs.drain() == []
    assert await jobs.drain() == ["kernel.peel", "kernel.call"]
    assert done == ["plain", "committed", (called, 1, "now", 0)]
    assert await sql.fetchval("SELECT count(*) FROM jobs") == 0


async def test_a_request_that_fails_enqueues_nothing(chores, sql):
    assert (await chores.post("/chores/failures")).status_code == 500
    assert await sql.fetchval("SELECT count(*) FROM jobs") == 0


async def test_a_dry_run_enqueues_nothing_and_a_replay_nothing_more(chores, sql, jobs):
    dry = await chores.post("/chores", headers={"Prefer": "tx=rollback"})
    assert (dry.status_code, await sql.fetchval("SELECT count(*) FROM jobs")) == (200, 0)
    keyed = {"Idempotency-Key": "a-key"}
    first, again = [await chores.post("/chores", headers=keyed) for _ in range(2)]
    assert first.json() == again.json()
    assert await sql.fetchval("SELECT count(*) FROM jobs") == 1
    assert await sql.fetchval("SELECT request_id FROM jobs") == first.headers["x-request-id"]


async def test_to_enqueue_takes_one_round_trip(chores):
    timing = (await chores.post("/chores")).headers["server-timing"]
    assert 'desc="2 queries"' in timing  # the caller, and the job


async def test_a_wrong_argument_is_our_own_mistake_and_tells_no_value(chores, log):
    answer = await chores.post("/chores/mistakes", params={"secret": "hunter2"})
    assert answer.status_code == 500
    (line,) = [each for each in log.lines("ERROR") if "exception" in each]
    assert "kernel.peel: owner_id: int_parsing" in line["exception"]
    assert "hunter2" not in str(log.lines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "owner_id: missing"),
        ({"owner_id": 1, "name": 2}, "name: extra_forbidden"),
        ({"owner_id": None}, "owner_id: int_type"),
        ({"owner_id": 1, "title": "\ud800"}, "cannot hold title"),
        ({"owner_id": 1, "run_at": datetime(2026, 1, 1)}, "run_at"),  # noqa: DTZ001
        ({"owner_id": 1, "run_at": datetime(2026, 1, 1).date()}, "run_at"),  # noqa: DTZ001
        ({"owner_id": 1, "run_at": datetime.now(UTC).timetz()}, "run_at"),
        ({"owner_id": 1, "run_at": datetime.min.replace(tzinfo=UTC)}, "run_at"),
        ({"owner_id": 1, "run_at": datetime.max.replace(tzinfo=UTC)}, "run_at"),
        ({"owner_id": 1, "key": 7}, "key"),
        ({"owner_id": 1, "key": "k" * 501}, "key"),
        ({"owner_id": 1, "key": "hunter2\0"}, "key"),
        ({"owner_id": 1, "key": "hunter2\ud800"}, "key"),
        ({"owner_id": 1, "title": "hunter2" * 2_400_000}, "title is too long"),
    ],
)
async def test_what_the_task_does_not_take_is_refused(app, arguments, words):
    async with open_session(app) as session:
        with pytest.raises((TypeError, ValueError), match=rf"kernel\.peel.*{words}") as refusal:
            await session.enqueue(peel, **arguments)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"secret": SecretStr("x")},
        {"price": float("nan")},
        {"price": float("inf")},
        {"shape": Circle(size=1, radius=2)},
        {"data": b"\xff"},
        {"size": -1},
        {"anything": 10**5000},
        {"anything": ["\ud800"]},
        {"anything": (1, 2)},
        {"anything": DEEP},
        {"numbers": {"hunter2": "x"}},
    ],
)
async def test_what_would_not_be_the_same_after_json_is_refused(app, arguments):
    async with open_session(app) as session:
        with pytest.raises(TypeError, match=next(iter(arguments))) as refusal:
            await session.enqueue(hold, **arguments)
    assert "hunter2" not in str(refusal.value)


async def test_what_json_can_hold_comes_back_as_it_was(enqueue, jobs):
    values = [Colour.RED, datetime.now(UTC), Decimal("1.10"), b"a\0b", frozenset("ab"), 2**70]
    values.append(Aliased(sizeInCm=3))
    names = ("colour", "at", "price", "data", "words", "size", "alias")
    await enqueue(hold, **dict(zip(names, values, strict=True)))
    await jobs.drain()
    assert done == [values]


async def test_of_a_key_there_is_one_job_and_it_is_kept_or_replaced(enqueue, jobs, sql, alice):
    first = await enqueue(peel, owner_id=alice.user_id, title="one", key="k")
    assert await enqueue(peel, owner_id=alice.user_id, title="two", key="k") is None
    assert await enqueue(call, what="other task", key="k") is not None
    assert await enqueue(peel, owner_id=alice.user_id, title="3", key="k", replace=True) == first
    await jobs.drain()
    assert [each for each in done if isinstance(each, str)] == ["3", "committed"]
    assert await enqueue(peel, owner_id=alice.user_id, key="k") is not None


async def test_who_replaces_a_job_that_runs_has_it_run_anew_and_its_work_undone(
    app, enqueue, jobs, alice, sql
):
    await enqueue(peel, owner_id=alice.user_id, title="old", key="k")
    (run,) = await take(app, [peel], 1)
    await enqueue(peel, owner_id=alice.user_id, title="new", key="k", replace=True)
    await run.run()
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 0
    await jobs.drain()
    assert await sql.fetchval("SELECT string_agg(title, ' ') FROM peelings") == "new"


async def test_a_time_that_has_passed_is_now(enqueue, sql):
    await enqueue(hold, run_at=datetime.now(UTC) - 24 * HOUR)
    assert await sql.fetchval("SELECT run_at = created_at FROM jobs")


async def test_a_job_waits_for_its_time(enqueue, jobs):
    await enqueue(hold, run_at=datetime.now(UTC) + HOUR)
    assert await jobs.drain() == []
    with time_machine.travel(datetime.now(UTC) + HOUR):
        assert await jobs.drain() == ["kernel.hold"]


# Run.


async def test_a_failed_run_leaves_nothing_and_is_tried_again_later(enqueue, jobs, sql, alice, log):
    failing = await enqueue(peel, owner_id=alice.user_id, title="fails")
    with pytest.raises(LookupError):
        await jobs.drain()
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 0
    _, _, lease, error, run_at = await sql.fetchrow(ROW, failing)
    assert (await state(sql, failing), lease) == (("waiting", 1), None)
    assert error.startswith("LookupError at test_jobs.py:")
    assert error.endswith("in peel")
    assert SECRET not in error + str(log.lines())
    assert timedelta(seconds=1.5) < run_at - datetime.now(UTC) < timedelta(seconds=3.5)  # e
    assert "committed" not in done


async def test_when_one_has_failed_in_a_test_the_others_can_be_run(enqueue, jobs):
    await enqueue(call, what="fails")
    for _ in range(2):
        await enqueue(call)
    with pytest.raises(LookupError):
        await jobs.drain()
    assert await jobs.drain() == ["kernel.call"] * 2
    assert [attempts for _, attempts, _, _ in done] == [1, 1, 1]


async def test_a_job_fails_for_good_after_25_attempts_and_is_kept(enqueue, jobs, sql, alice):
    failing = await enqueue(call, what="fails")
    jobs.clock = datetime.now(UTC) + HOUR
    waits = []
    for attempt in range(1, 26):
        assert await jobs.drain(raises=False) == ["kernel.call"]
        assert done[-1][:2] == (failing, attempt)
        waits.append((await sql.fetchrow(ROW, failing))["run_at"] - jobs.clock)
        jobs.clock += 8 * HOUR
    assert await state(sql, failing) == ("failed", 25)
    # e, e², … seconds, and from the tenth on e¹⁰, a quarter more or less.
    shares = [wait.total_seconds() / e ** min(10, n) for n, wait in enumerate(waits[:-1], start=1)]
    assert 0.75 <= min(shares) < 1 < max(shares) <= 1.25
    assert await jobs.drain() == []


async def test_a_job_that_kills_its_process_each_time_fails_and_is_not_run_again(
    app, enqueue, sql, jobs
):
    poison = await enqueue(call)
    for attempt in range(1, 26):
        (run,) = await take(app, [call], 1, clock=datetime.now(UTC) + attempt * HOUR)
        assert run.job.attempts == attempt
    jobs.clock = datetime.now(UTC) + 26 * HOUR
    assert await jobs.drain(raises=False) == ["kernel.call"]
    assert done == []
    row = await sql.fetchrow(ROW, poison)
    assert (row["state"], "had no end" in row["error"]) == ("failed", True)


async def test_new_jobs_run_in_their_order_and_others_behind_them_in_any(app, enqueue, sql):
    ids = [await enqueue(call) for _ in range(20)]
    assert [run.job.id for run in await take(app, [call], 10)] == ids[:10]
    later = datetime.now(UTC) + HOUR
    again = [run.job.id for run in await take(app, [call], 20, clock=later)]
    assert (again[:10], sorted(again[10:])) == (ids[10:], ids[:10])
    assert again[10:] != ids[:10]


@pytest.mark.parametrize("which", ERRORS)
async def test_whatever_a_task_raises_is_its_failure_and_is_kept(
    app, enqueue, sql, which, monkeypatch
):
    # A lone surrogate in a report, from the log's traceback, would end pytest-xdist's worker.
    monkeypatch.setattr("kernel.jobs.runs.logger.disabled", True)
    failing = await enqueue(fail, which=which)
    (run,) = await take(app, [fail], 1)
    await asyncio.wait_for(run.run(), 5)
    row = await sql.fetchrow(ROW, failing)
    assert (row["state"], row["attempts"], row["lease"]) == ("waiting", 1, None)
    assert row["error"].startswith(type(ERRORS[which]).__name__)
    assert len(row["error"]) < 1200


async def test_a_task_may_say_that_it_is_in_vain(enqueue, jobs, sql, alice):
    failing = await enqueue(peel, owner_id=alice.user_id, title="gives up")
    await jobs.drain(raises=False)
    assert await state(sql, failing) == ("failed", 1)
    assert "no knife" in (await sql.fetchrow(ROW, failing))["error"]


@pytest.mark.parametrize("call", [(give_up_in_a_group, {}), (fail, {"which": "in a group"})])
async def test_one_of_a_group_of_tasks_may_say_so_too(enqueue, jobs, sql, call):
    failing = await enqueue(call[0], **call[1])
    await jobs.drain(raises=False)
    assert await state(sql, failing) == ("failed", 1)
    assert "JobFailed: no knife" in (await sql.fetchrow(ROW, failing))["error"]


async def test_a_task_that_takes_too_long_has_failed_and_where_it_was_is_told(enqueue, jobs, sql):
    late = await enqueue(sleep)
    await jobs.drain(raises=False)
    assert await state(sql, late) == ("waiting", 1)
    error = (await sql.fetchrow(ROW, late))["error"]
    assert error.startswith("TimeoutError at ")
    assert error.endswith(" in sleep")


async def test_a_task_that_suppresses_its_cancellation_holds_nothing_and_has_failed(
    app, enqueue, jobs, sql, log, monkeypatch
):
    monkeypatch.setattr("kernel.jobs.runs.CLEANUP_SECONDS", 0.05)
    stuck = await enqueue(go_on)
    await jobs.drain(raises=False)
    assert await state(sql, stuck) == ("failed", 1)
    assert resources_of(app).writer.in_use() == 0
    (line,) = [each for each in log.lines("WARNING") if each["message"] == "job"]
    assert (line["task"], "suppressed its cancellation" in line["exception"]) == (
        "kernel.go_on",
        True,
    )
    here.set()


async def test_a_task_does_not_commit_by_itself(enqueue, jobs, sql, alice):
    await enqueue(peel, owner_id=alice.user_id, title="commits")
    with pytest.raises(RuntimeError, match="commits"):
        await jobs.drain()
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 0


async def test_a_task_may_open_a_session_beside_its_own(enqueue, jobs, sql, alice):
    await enqueue(peel, owner_id=alice.user_id, title="beside")
    await jobs.drain()
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 2


async def test_whoever_has_lost_the_lease_changes_nothing(app, enqueue, sql, alice, log, jobs):
    metrics.STATE.use(Values())
    await enqueue(peel, owner_id=alice.user_id)
    (slow,) = await take(app, [peel], 1)
    (quick,) = await take(app, [peel], 1, clock=datetime.now(UTC) + HOUR)
    assert await take(app, [peel], 1) == []
    await quick.run()
    await slow.run()
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 1
    assert [line["outcome"] for line in log.lines() if line["message"] == "job"] == ["done", "lost"]
    assert told("jobs_runs_total", task="kernel.peel", outcome="lost") == 1


async def test_a_run_whose_job_was_discarded_is_lost_whether_it_fails_or_not(
    app, enqueue, sql, alice, log
):
    for title in ("plain", "fails"):
        await enqueue(peel, owner_id=alice.user_id, title=title)
        (run,) = await take(app, [peel], 1)
        await sql.execute("DELETE FROM jobs")
        await run.run()
    assert [line["outcome"] for line in log.lines() if line["message"] == "job"] == ["lost", "lost"]
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 0


async def test_a_line_of_a_run_has_the_id_of_the_request(chores, log):
    answer = await chores.post("/chores")
    await Jobs(chores.app).drain()
    (line,) = [each for each in log.lines() if each["message"] == "job"]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert {name: line[name] for name in ("task", "attempt", "outcome")} == {
        "task": "kernel.peel",
        "attempt": 1,
        "outcome": "done",
    }


async def test_a_job_of_a_task_that_this_code_has_not_waits_and_is_told(app, jobs, sql, log):
    await sql.execute("INSERT INTO jobs (task, arguments) VALUES ('later.task', '{}')")
    assert await jobs.drain() == []
    await Gauges(app).count()
    (line,) = [each for each in log.lines("WARNING") if each["message"] == NOBODYS]
    assert (line["task"], line["waiting"]) == ("later.task", 1)


async def test_metrics_tell_of_each_task_what_waits_for_how_long_and_what_has_failed(
    app, enqueue, jobs, sql, alice
):
    await sql.execute("""
        INSERT INTO jobs (task, arguments, state, run_at) VALUES
            ('kernel.call', '{}', 'waiting', now() + interval '1 hour'),
            ('kernel.call', '{}', 'waiting', now() - interval '1 hour'),
            ('kernel.call', '{}', 'running', now() - interval '1 day'), -- its worker was killed
            ('kernel.call', '{}', 'failed', now() - interval '9 days'),
            ('later.task', '{}', 'waiting', now())
    """)
    gauges = Gauges(app)
    await gauges.count()
    assert told("jobs_waiting", task="kernel.call") == 2
    assert told("jobs_failed", task="kernel.call") == told("jobs_unknown") == 1
    assert 86_400 <= told("jobs_oldest_seconds", task="kernel.call") < 86_460
    assert told("jobs_oldest_seconds", task="kernel.peel") == 0
    before = [told("jobs_runs_total", task="kernel.peel", outcome=of) for of in ("done", "retry")]
    for title in ("one", "two", "fails"):
        await enqueue(peel, owner_id=alice.user_id, title=title)
    await sql.execute("DELETE FROM jobs WHERE task <> 'kernel.peel'")
    await jobs.drain(raises=False)
    await gauges.count()
    after = [told("jobs_runs_total", task="kernel.peel", outcome=of) for of in ("done", "retry")]
    assert after == [(before[0] or 0) + 2, (before[1] or 0) + 1]
    names = ("jobs_waiting", "jobs_failed", "jobs_oldest_seconds")
    assert [told(name, task="kernel.call") for name in names] == [0, 0, 0]


def told(name, **labels):
    """What `/metrics` tells of it, or None."""
    families = text_string_to_metric_families(render("")[0].decode())
    samples = [each for family in families for each in family.samples if each.name == name]
    return next((each.value for each in samples if each.labels == labels), None)


async def test_a_limit_holds_though_two_take_at_once(app, enqueue, sql):
    for _ in range(6):
        await enqueue(wait_here)
    taken = await asyncio.gather(*[take(app, [wait_here], 5) for _ in range(4)])
    assert sum(map(len, taken)) == 2
    with suppress(Exception):
        here.set()
    await asyncio.gather(*[run.run() for runs in taken for run in runs])
    assert len(await take(app, [wait_here], 5)) == 2


async def test_who_looks_how_many_run_waits_for_who_looks(app, enqueue, sql):
    waiting = await enqueue(wait_here)
    async with sql.transaction():
        await sql.execute(TAKE_TURNS)
        taking = asyncio.create_task(take(app, [wait_here], 5))
        await asyncio.wait([taking], timeout=0.2)
        assert not taking.done()
        let_go = await sql.fetchval("SELECT clock_timestamp()")
    assert len(await taking) == 1
    # The lease is as long as this process takes it to be: the wait is no part of it.
    lease = (await sql.fetchrow(ROW, waiting))["run_at"] - let_go
    assert lease > timedelta(seconds=wait_here.timeout + LEASE_SECONDS)


async def test_a_job_that_has_been_due_for_ever_keeps_no_other_one_waiting(app, enqueue, sql):
    ids = {await enqueue(hold) for _ in range(2)}
    await sql.execute("UPDATE jobs SET run_at = '-infinity' WHERE id = $1", min(ids))
    assert {run.job.id for run in await take(app, [hold], 5)} == ids


async def test_a_job_that_somebody_holds_keeps_no_other_one_waiting(app, enqueue, sql):
    held, free = [await enqueue(hold) for _ in range(2)]
    async with sql.transaction():
        await sql.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", held)
        assert [run.job.id for run in await take(app, [hold], 5)] == [free]


# By a schedule.


@pytest.mark.parametrize(
    ("every", "cron", "newest", "before"),
    [
        ("1h", None, "2026-11-26T13:00:00", "2026-11-26T12:00:00"),
        ("90s", None, "2026-11-26T13:34:30", "2026-11-26T13:33:00"),
        ("1w", None, "2026-11-26T00:00:00", "2026-11-19T00:00:00"),
        (None, "0 3 * * *", "2026-11-26T03:00:00", "2026-11-25T03:00:00"),
        (None, "*/5 * * * *", "2026-11-26T13:35:00", "2026-11-26T13:30:00"),
        (None, "0 0 29 2 *", "2024-02-29T00:00:00", "2020-02-29T00:00:00"),
        (None, "30 35 13 * * *", "2026-11-26T13:35:30", "2026-11-25T13:35:30"),
    ],
)
def test_the_newest_tick_is_not_after_now(every, cron, newest, before):
    schedule = make_schedule(every, cron)
    now = datetime(2026, 11, 26, 13, 35, 30, 5, tzinfo=UTC)
    tick = schedule.latest(now)
    assert tick == datetime.fromisoformat(f"{newest}+00:00") == schedule.latest(tick)
    assert schedule.latest(tick - timedelta(microseconds=1)) == datetime.fromisoformat(
        f"{before}+00:00"
    )


@pytest.mark.parametrize(
    ("every", "cron"),
    [("1", None), ("0h", None), ("h", None), ("1.5h", None), ("-1h", None), ("1 h", None)]
    + [(None, text) for text in ("", "* * *", "61 * * * *", "0 3 30 2 *", "x")]
    + [("1h", "* * * * *"), (None, "0 0 */29 2 SUN#5")],
)
def test_a_schedule_that_is_none_is_refused(every, cron):
    with pytest.raises(ValueError, match=r"every=|cron="):
        make_schedule(every, cron)


async def test_the_first_tick_is_not_run_and_each_other_one_once(app, jobs, sql):
    strikes = "SELECT count(*) FROM jobs WHERE task = 'kernel.strike'"
    start = datetime.now(UTC) + 24 * HOUR
    for hours in (0, 1, 2):
        jobs.clock = start + hours * HOUR
        for makers in ([Ticks(app), Ticks(app)], [Ticks(app)]):
            await asyncio.gather(*[each.make(jobs.clock) for each in makers])
        await jobs.drain()
        assert done.count("dong") == hours
    assert await sql.fetchval(strikes) == 3


@pytest.mark.parametrize(("env", "is_told"), [("dev", False), ("prod", True)])
async def test_of_missed_ticks_the_newest_runs_and_that_is_told(
    app, jobs, log, monkeypatch, env, is_told
):
    monkeypatch.setitem(vars(resources_of(app).settings), "env", env)
    jobs.clock = datetime.now(UTC) + 24 * HOUR
    await jobs.tick()
    jobs.clock += 5 * HOUR
    await jobs.tick()
    assert done == ["dong"]
    lines = [each for each in log.lines("WARNING") if "missed" in each["message"]]
    assert ("kernel.strike" in [each["task"] for each in lines]) is is_told


async def test_a_tick_that_has_not_run_makes_room_for_the_next_one(app, sql, jobs):
    clock = datetime.now(UTC) + 24 * HOUR
    for hours in range(4):
        await Ticks(app).make(clock + hours * HOUR)
    states = "SELECT array_agg(state ORDER BY tick) FROM jobs WHERE task = 'kernel.strike'"
    assert await sql.fetchval(states) == ["done", "done", "done", "waiting"]


@pytest.mark.parametrize("hours", [-24, 24])
async def test_a_host_whose_clock_is_wrong_makes_the_ticks_of_the_database_s(app, sql, hours):
    ticks = Ticks(app)
    with time_machine.travel(datetime.now(UTC) + hours * HOUR):
        for _ in range(2):
            await ticks.make()
    right = "SELECT max(tick) = date_trunc('hour', now()) FROM jobs WHERE task = 'kernel.strike'"
    assert await sql.fetchval(right)


# The worker.


async def test_a_worker_wakes_when_a_job_is_committed(app, enqueue, monkeypatch):
    monkeypatch.setattr("kernel.jobs.worker.POLL_SECONDS", 60)
    async with running(app):
        await asyncio.sleep(0.2)
        await enqueue(call)
        await until(has_done(1), seconds=10)


async def test_a_task_that_is_made_while_a_worker_runs_is_run(app, enqueue):
    async def late() -> None:
        done.append("late")

    async with running(app):
        await enqueue(call)
        await until(has_done(1), seconds=5)
        await enqueue(task(late))
        await until(has_done(2), seconds=5)
    del TASKS["kernel.late"]


@pytest.mark.parametrize("which", [wait_here, end_in_an_error, linger])
async def test_the_end_costs_no_attempt(app, sql, enqueue, which, log):
    waiting = [await enqueue(which) for _ in range(2)]
    async with running(app):
        await until(has_done(2), seconds=5)
    assert [await state(sql, each) for each in waiting] == [("waiting", 0)] * 2
    assert log.lines("WARNING", "ERROR") == []
    here.set()


async def test_what_an_external_task_has_done_is_not_done_again(app, sql, enqueue, monkeypatch):
    """The worker ends while the database takes its time to record that the task has returned."""
    called = await enqueue(call)
    slow = "AND id IN (SELECT $1 FROM pg_sleep(0.3))"
    monkeypatch.setattr("kernel.jobs.runs.END", END.replace("RETURNING", f"{slow} RETURNING"))
    worker = Worker(app, 4)
    await until(has_done(1), seconds=5)
    await worker.close()
    assert await state(sql, called) is None


async def test_what_is_taken_while_the_worker_ends_is_given_back(app, sql, enqueue, monkeypatch):
    monkeypatch.setattr("kernel.jobs.worker.END_SECONDS", 0.1)
    monkeypatch.setattr("kernel.jobs.queue.TAKE_TURNS", "SELECT pg_sleep(0.5)")
    waiting = await enqueue(wait_here)
    worker = Worker(app, 4)
    await asyncio.sleep(0.2)
    await worker.close(0.8)
    assert await state(sql, waiting) == ("waiting", 0)


async def test_four_jobs_at_once_hold_a_connection_though_more_are_taken(app, sql, enqueue):
    for _ in range(9):
        await enqueue(linger)
    worker = Worker(app, 4)
    worker._lanes[0]._seconds = 0.001  # as they took before
    await until(has_done(4), seconds=5)
    await asyncio.sleep(0.1)
    assert (len(done), resources_of(app).writer.in_use()) == (4, 4)
    assert await sql.fetchval("SELECT count(*) FROM jobs WHERE state = 'running'") == 9
    await worker.close()
    assert await sql.fetchval("SELECT max(attempts) FROM jobs WHERE tick IS NULL") == 0


async def test_what_waits_behind_long_jobs_is_left_to_another_process(
    app, sql, enqueue, monkeypatch
):
    """For as long as its lease, a prefetched job is out of reach of those that are idle."""
    waiting = [await enqueue(linger) for _ in range(9)]
    monkeypatch.setattr("kernel.jobs.worker.TURN_SECONDS", 0.2)
    worker = Worker(app, 4)
    worker._lanes[0]._seconds = 0.001  # those before were short

    async def are_given_back():
        return sorted([await state(sql, each) for each in waiting]) == [
            *[("running", 1)] * 4,
            *[("waiting", 0)] * 5,
        ]

    await until(are_given_back, seconds=5)
    worker.wake()
    await asyncio.sleep(0.2)
    assert await are_given_back()  # and are not prefetched again
    await worker.close()


@pytest.mark.parametrize("jobs", ["on", "only"])
async def test_jobs_leave_the_worker_a_connection_of_their_share(create_app, settings, sql, jobs):
    few = {"pool_size": 6, "max_overflow": 0, "jobs": jobs}
    app = create_app(settings.model_copy(update=few))
    async with app.router.lifespan_context(app), working(app):
        async with open_session(app) as session:
            lingering = [await session.enqueue(linger) for _ in range(6)]
        await until(has_done(2), seconds=5)
        async with open_session(app) as session:
            called = await session.enqueue(call)

        async def has_ended():
            return await state(sql, called) is None

        await until(has_ended, seconds=5)
        assert done.count(1) == 2
    assert {await state(sql, each) for each in lingering} == {("waiting", 0)}


async def test_who_is_told_to_end_takes_no_more(app, enqueue, monkeypatch):
    monkeypatch.setattr(resources_of(app), "is_draining", True)
    async with running(app):
        await enqueue(call)
        await asyncio.sleep(0.2)
    assert done == []


async def test_jobs_run_while_the_slices_are_open(create_app, settings, enqueue, sql):
    """A slice's lifespan begins behind the app's own, and ends before it."""

    @asynccontextmanager
    async def lifespan(_):
        done.append("open")
        yield
        done.append(await sql.fetchval(ROW, waiting))

    app = create_app(settings.model_copy(update=ON))
    app.include_router(Router(prefix="/slice", lifespan=lifespan))
    told, heard = asyncio.Queue(), asyncio.Queue()
    serving = asyncio.create_task(app({"type": "lifespan", "state": {}}, told.get, heard.put))
    await told.put({"type": "lifespan.startup"})
    assert (await heard.get())["type"] == "lifespan.startup.complete"
    await enqueue(call, what="now")
    waiting = await enqueue(wait_here)
    await until(has_done(3), seconds=5)
    await told.put({"type": "lifespan.shutdown"})
    await serving
    assert (done[0], done[-1], len(done)) == ("open", "waiting", 4)
    assert waiting in done


# Decorated.


async def anything(value: object = None) -> None: ...


async def positional(value: int, /) -> None: ...


async def several(*values: int) -> None: ...


async def untyped(value) -> None: ...


async def reserved(key: str) -> None: ...


async def with_client(client: httpx.AsyncClient) -> None: ...


async def with_row(peeling: Peeling) -> None: ...


async def with_session(session: WriteSession) -> None: ...


async def with_need(value: int) -> None: ...


def plain() -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (positional, {}, "value should have a name"),
        (several, {}, "values should have a name"),
        (untyped, {}, "value should have a name and a type"),
        (reserved, {}, "be none of key, replace, run_at"),
        (with_client, {}, "a type that no JSON has"),
        (with_row, {}, "peeling should be an id"),
        (plain, {}, "no async function"),
        (with_session, {"external": True}, "open_session"),
        (with_need, {"every": "1h"}, "gives no arguments"),
        *[(anything, {"timeout": each}, "1 day") for each in (0, -1, 1e12, math.inf, math.nan)],
        *[(anything, {"concurrency": each}, "1,000") for each in (0, -1, 1001, 1.5)],
        (anything, {"every": "1h", "cron": "* * * * *"}, "one schedule"),
        (anything, {"retries": 3}, "retries"),
    ],
)
def test_what_can_be_no_task_is_refused(function, options, words):
    before = {**TASKS}
    with pytest.raises((TypeError, ValueError), match=words):
        task(**options)(function)
    assert before == TASKS


def test_two_tasks_of_a_slice_have_two_names():
    async def peel() -> None: ...

    peel.__qualname__ = "peel"
    peel.__module__ = "kernel.elsewhere"
    with pytest.raises(ValueError, match="two tasks are called"):
        task(peel)


def test_a_task_is_named_by_its_slice_and_simply_runs_when_it_is_called():
    async def add(one: int, two: int = 2) -> None:
        done.append(one + two)

    add.__module__ = "features.users.handlers.welcome"
    made = task(add)
    assert made.name == "users.add"
    assert TASKS.pop("users.add") is made
    asyncio.run(made(1, two=3))
    assert done == [4]


# What the kernel's own jobs do.


async def test_what_is_kept_for_a_while_is_swept(app, sql, jobs, alice):
    await sql.execute("""
        INSERT INTO idempotency_keys (digest, fingerprint, created_at)
        SELECT int4send(n), '', now() - interval '1 day' FROM generate_series(1, 1500) n
    """)
    await sql.execute("""
        INSERT INTO sign_in_attempts (digest, since)
        SELECT int4send(n), now() - interval '1 day' FROM generate_series(1, 1500) n
    """)
    await sql.execute("INSERT INTO idempotency_keys VALUES ('new', '')")
    for minutes in (10, 20):
        jobs.clock = datetime.now(UTC) + timedelta(minutes=minutes)
        await jobs.tick()
    assert await sql.fetchval("SELECT array_agg(digest) FROM idempotency_keys") == [b"new"]
    assert await sql.fetchval("SELECT count(*) FROM sign_in_attempts") == 0


@pytest.mark.parametrize(("jobs", "left"), [("off", ["new"]), ("on", ["new", "old"])])
async def test_where_no_worker_runs_one_of_many_keyed_writes_sweeps(mount, alice, sql, jobs, left):
    await sql.execute("""
        INSERT INTO idempotency_keys (digest, fingerprint, created_at)
        VALUES ('old', '', now() - interval '2 days'), ('new', '', now())
    """)
    scope = [str(alice.user_id), alice.role, "POST", "/chores"]
    keys = (f"key-{number}" for number in count())
    key = next(key for key in keys if sha256(json.dumps([*scope, key]).encode()).digest()[0] == 0)
    async with mount(router, jobs=jobs) as client:
        answer = await client.post("/chores", headers={"Idempotency-Key": key, **alice.headers})
    assert answer.status_code == 200
    kept = await sql.fetch("SELECT digest FROM idempotency_keys WHERE status IS NULL ORDER BY 1")
    assert [digest.decode() for (digest,) in kept] == left
