"""Jobs: how many a second, beside pgqueuer, and what they cost the web they are beside."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median, quantiles

import asyncpg
import httpx

from kernel.data.schema import upgrade_schema
from kernel.dev.embedded import as_service
from kernel.settings import ROOT
from kernel.tests.bench.stage import APP_CPUS, SECRET, Failed, cpu
from kernel.tests.faults.jobs import TABLES
from kernel.tests.processes import free_port

JOBS, REQUESTS = 20_000, 2_000
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
KINDS = {
    "ours": (OURS, ENQUEUE, "SELECT count(*) FROM jobs WHERE task = 'kernel.idle'"),
    "pgqueuer": (THEIRS, THEIR_ENQUEUE, "SELECT count(*) FROM pgqueuer"),
}


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
    """Print a table."""
    superuser = await asyncpg.connect(url)
    await superuser.execute("CREATE DATABASE jobs OWNER app")
    await superuser.close()
    url = as_service(url, "jobs")
    await upgrade_schema(url)
    connection = await asyncpg.connect(url)
    await connection.execute(TABLES)
    await connection.close()
    async with running(url, folder, *THEIRS, "install", DATABASE_URL=url):
        await asyncio.sleep(5)
    print("| | jobs a second | µs of the worker's CPU for one |\n|---|---|---|")
    for kind in KINDS:
        rate, micros = await throughput(url, folder, kind)
        print(f"| {kind} | {rate:.0f} | {micros:.0f} |")
    print("\n| | median ms | p99 ms |\n|---|---|---|")
    port = free_port()
    command = ("-m", "uvicorn", OURS[-1], "--port", str(port))
    posts = {"POST": "/chores?jobs=0", "POST that enqueues": "/chores?jobs=1"}
    waiting = {"nothing": None, "10,000 for later": 1, "10,000 now": 0}
    async with (
        running(url, folder, *command, APP_ENV="dev"),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        await _ready(client)
        for name, path in posts.items():
            _tell(name, await _ask(client, "POST", path))
        connection = await asyncpg.connect(url)
        for name, hours in waiting.items():
            await connection.execute("TRUNCATE jobs")
            if hours is not None:
                await connection.execute(ENQUEUE, 10_000, hours)
            _tell(f"GET, jobs that wait: {name}", await _ask(client, "GET", "/chores"))
        await connection.close()


async def _ready(client: httpx.AsyncClient) -> None:
    for _ in range(200):
        try:
            if (await client.get("/livez")).is_success:
                return
        except httpx.TransportError:
            await asyncio.sleep(0.1)
    raise Failed("the service does not answer")


async def _ask(client: httpx.AsyncClient, method: str, path: str) -> list[float]:
    """Milliseconds of requests, one after the other."""
    seen = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        (await client.request(method, path)).raise_for_status()
        seen.append((time.perf_counter() - began) * 1000)
    return seen


def _tell(name: str, seen: list[float]) -> None:
    print(f"| {name} | {median(seen):.2f} | {quantiles(seen, n=100)[98]:.2f} |", flush=True)
