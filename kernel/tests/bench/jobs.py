"""Jobs: how many a second, beside pgqueuer, and what they cost the web they are beside."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

import asyncpg
import httpx

from kernel.data.schema import upgrade_schema
from kernel.dev.embedded import as_service
from kernel.settings import ROOT
from kernel.tests.bench.report import keep, markdown
from kernel.tests.bench.stage import APP_CPUS, SECRET, Failed, cpu
from kernel.tests.faults.jobs import TABLES
from kernel.tests.processes import free_port

JOBS, REQUESTS, WAITING = 20_000, 2_000, 10_000
OURS = ("-m", "features.jobs", "work", "--app", "kernel.tests.faults.chores:app")
THEIRS = ("-m", "kernel.tests.bench.pgqueuer_worker")
ENQUEUE = """
    INSERT INTO jobs (task, arguments, run_at)
    SELECT 'kernel.idle', '{}', now() + $2 * interval '1 hour' FROM generate_series(1, $1)
"""
THEIR_ENQUEUE = """
    INSERT INTO pgqueuer (priority, status, entrypoint, payload)
    SELECT 0, 'queued', 'idle', NULL FROM generate_series(1, $1) WHERE $2 = 0
"""
LEFT = "SELECT count(*) FROM jobs WHERE task = 'kernel.idle'"
KINDS = {
    "ours": (OURS, ENQUEUE, LEFT),
    "pgqueuer": (THEIRS, THEIR_ENQUEUE, "SELECT count(*) FROM pgqueuer"),
}
WAYS = {
    "ours": "each in a transaction of its own, which also ends it",
    "pgqueuer": "in no transaction; taken and ended in batches",
}
# A name, a method and a path: a read, a write of one row, and such a write that enqueues a job.
Kind = tuple[str, str, str]
READ: Kind = ("GET", "GET", "/chores")
WRITE: Kind = ("POST", "POST", "/chores?jobs=0")
ENQUEUEING: Kind = ("POST that enqueues", "POST", "/chores?jobs=1")
HEADER = (
    *("", "`APP_JOBS`", "jobs waiting", "due in hours", "jobs waiting afterwards"),
    *("queries", "median ms", "p99 ms"),
)


@dataclass(frozen=True)
class Case:
    """Requests, of these kinds in turn, to a service that runs jobs or not (`APP_JOBS`), beside so
    many jobs that are due in so many hours."""

    jobs: str
    kinds: tuple[Kind, ...]
    waiting: int = 0
    hours: int = 0


CASES = (
    Case("off", (WRITE, ENQUEUEING)),  # what it costs to enqueue, and nothing else
    Case("off", (READ,), WAITING),
    Case("off", (WRITE,), WAITING),
    Case("on", (ENQUEUEING,)),
    *(
        Case("on", (kind,), waiting, hours)
        for waiting, hours in ((0, 0), (WAITING, 1), (WAITING, 0))
        for kind in (READ, WRITE)
    ),
)


@asynccontextmanager
async def running(url: str, folder: Path, *command: str, **app: str) -> AsyncIterator[int]:
    """A process with a CPU to itself, by its id."""
    environment = {"APP_DATABASE_URL": url, "APP_JWT_SECRET": SECRET, "APP_LOG_LEVEL": "WARNING"}
    with (folder / "jobs.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            "taskset", "-c", ",".join(map(str, APP_CPUS)), sys.executable, *command,
            cwd=ROOT, env={"PATH": "/usr/bin:/bin", **environment, **app}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process.pid
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def throughput(url: str, folder: Path, kind: str) -> tuple[float, float]:
    """Jobs a second, and µs of CPU that one costs its worker, from the first fifth to the last."""
    command, insert, left = KINDS[kind]
    connection = await asyncpg.connect(url)
    await connection.execute(insert, JOBS, 0)
    marks: list[tuple[float, float, int]] = []
    async with running(url, folder, *command, DATABASE_URL=url) as pid:
        deadline = time.monotonic() + 120
        while (count := await connection.fetchval(left)) > JOBS // 5:
            if count < JOBS - JOBS // 5:
                marks.append((time.monotonic(), cpu(pid), count))
            if time.monotonic() > deadline:
                raise Failed(f"{kind} has {count} jobs left; see {folder}/jobs.log")
            await asyncio.sleep(0.05)
        marks.append((time.monotonic(), cpu(pid), count))
    await connection.execute("TRUNCATE jobs")
    await connection.close()
    (began, used, first), (ended, spent, last) = marks[0], marks[-1]
    return (first - last) / (ended - began), (spent - used) / (first - last)


async def measure(url: str, folder: Path) -> None:
    """Print tables, and keep them."""
    url = await _prepare(url, folder)
    rates = [
        (kind, WAYS[kind], f"{rate:,.0f}", f"{micros:,.0f}")
        for kind in KINDS
        for rate, micros in [await throughput(url, folder, kind)]
    ]
    costs = [*await web(url, folder, "off"), *await web(url, folder, "on")]
    keep(
        "jobs",
        f"{JOBS:,} jobs that do nothing, one worker on a core of its own, beside pgqueuer"
        f" {version('pgqueuer')}. The database and the measurement share the other core.",
        markdown(("", "how a job runs", "jobs a second", "µs of the worker's CPU for one"), rates),
        f"{REQUESTS:,} requests of each kind, one after the other, to one worker of the web. A POST"
        " writes one row in a transaction; one that enqueues also writes a job. With `off`, no"
        " process runs jobs: that is what enqueueing costs by itself.",
        markdown(HEADER, costs),
    )


async def _prepare(server_url: str, folder: Path) -> str:
    """A database with the tables of both."""
    superuser = await asyncpg.connect(server_url)
    await superuser.execute("CREATE DATABASE jobs OWNER app")
    await superuser.close()
    url = as_service(server_url, "jobs")
    await upgrade_schema(url)
    connection = await asyncpg.connect(url)
    await connection.execute(TABLES)
    await connection.close()
    async with running(url, folder, *THEIRS, "install", DATABASE_URL=url):
        await asyncio.sleep(5)
    return url


async def web(url: str, folder: Path, jobs: str) -> list[list[str]]:
    """Rows about the cases of a web process whose `APP_JOBS` is this."""
    port, rows = free_port(), list[list[str]]()
    command = ("-m", "uvicorn", OURS[-1], "--port", f"{port}", "--no-access-log")
    connection = await asyncpg.connect(url)
    async with (
        running(url, folder, *command, APP_ENV="dev", APP_JOBS=jobs),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        await _wait_until_ready(client)
        for case in CASES:
            if case.jobs == jobs:
                await connection.execute("TRUNCATE jobs")
                await connection.execute(ENQUEUE, case.waiting, case.hours)
                samples = await _send(client, case.kinds)
                left = await connection.fetchval(LEFT)
                rows += [_row(case, name, left, sample) for name, sample in samples.items()]
    await connection.close()
    return rows


async def _wait_until_ready(client: httpx.AsyncClient) -> None:
    for _ in range(200):
        try:
            if (await client.get("/readyz")).is_success:
                return
        except httpx.TransportError:
            await asyncio.sleep(0.1)
    raise Failed("the service does not answer")


@dataclass
class Sample:
    """What requests of one kind took, in ms, and how many queries the last of them made."""

    milliseconds: list[float]
    queries: str = ""


async def _send(client: httpx.AsyncClient, kinds: Iterable[Kind]) -> dict[str, Sample]:
    """Send requests, of these kinds in turn, one after the other."""
    samples = {name: Sample([]) for name, _, _ in kinds}
    for _ in range(REQUESTS):
        for name, method, path in kinds:
            began = time.perf_counter()
            answer = (await client.request(method, path)).raise_for_status()
            samples[name].milliseconds.append((time.perf_counter() - began) * 1000)
            samples[name].queries = answer.headers["server-timing"].split('desc="')[1].split()[0]
    return samples


def _row(case: Case, name: str, left: int, sample: Sample) -> list[str]:
    print(f"{name}, {case}: {median(sample.milliseconds):.2f} ms", flush=True)
    waiting = [f"{case.waiting:,}", f"{case.hours}" if case.waiting else "", f"{left:,}"]
    figures = (median(sample.milliseconds), quantiles(sample.milliseconds, n=100)[98])
    return [name, case.jobs, *waiting, sample.queries, *(f"{figure:.2f}" for figure in figures)]
