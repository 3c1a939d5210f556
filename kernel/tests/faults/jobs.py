"""Jobs while their workers are killed, and their database."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel.settings import ROOT
from kernel.tests.faults.drilling import Row, drill
from kernel.tests.faults.postgres import Postgres, postgres
from kernel.tests.processes import end, until

APP = "kernel.tests.faults.chores:app"
DRAIN_SECONDS = 2
# Of the tasks of `APP`, which only a process of its own imports: they are enqueued by schedules.
TABLES = """
    DROP TABLE IF EXISTS booked, rung, struck, shared;
    CREATE TABLE booked (number int); CREATE TABLE rung (number int, job bigint);
    CREATE TABLE struck (job bigint); TRUNCATE jobs;
    CREATE TABLE shared (job bigint, process int, began timestamptz, ended timestamptz)
"""
ENQUEUE = """
    INSERT INTO jobs (task, arguments)
    SELECT unnest(ARRAY['kernel.book', 'kernel.ring']), json_build_object('number', n)::text
    FROM generate_series(1, {}) AS n
"""
LONG = ENQUEUE.replace("book", "doze").replace("ring", "wait")
OURS = "task NOT LIKE '%sweep%' AND task <> 'kernel.toll'"
LEFT = f"SELECT count(*) FROM jobs WHERE {OURS}"  # a constant
STATES = f"SELECT DISTINCT state, attempts FROM jobs WHERE {OURS}"  # a constant
DONE = "SELECT (SELECT count(*) FROM booked) + (SELECT count(*) FROM rung)"
COUNTED = "SELECT count(*) AS rows, count(DISTINCT number) AS numbers FROM {}"
SHARED = (
    "INSERT INTO jobs (task, arguments) SELECT 'kernel.share', '{}' FROM generate_series(1, 60)"
)
BUSY = "SELECT process FROM shared ORDER BY began DESC LIMIT 1"  # a constant
AT_ONCE = """
    SELECT count(ended) AS ended, count(DISTINCT process) AS processes,
        max((SELECT count(*) FROM shared AS other
             WHERE other.began <= shared.began AND other.ended > shared.began)) AS most
    FROM shared
"""
TICKS = """
    SELECT count(*) AS ticks, count(*) FILTER (WHERE state = 'done') AS done,
        extract(epoch FROM max(tick) - min(tick))::int / 2 + 1 AS due,
        (SELECT count(*) FROM struck) AS runs, (SELECT count(DISTINCT job) FROM struck) AS struck
    FROM jobs WHERE task = 'kernel.toll'
"""


@contextmanager
def worker(server: Postgres) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker apart from the web, in a process of its own."""
    settings = {"DATABASE_URL": server.service_url(), "JWT_SECRET": "x" * 32, "ENV": "dev"}
    environment = {f"APP_{name}": value for name, value in settings.items()}
    with (server.folder / "worker.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "features.jobs", "work", "--app", APP],
            cwd=ROOT,
            env=environment | {"PATH": os.environ["PATH"], "APP_DRAIN": str(DRAIN_SECONDS)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


async def enqueue(server: Postgres, statement: str) -> None:
    """Leave these jobs and no other, and nothing that is done."""
    for each in (TABLES, statement):
        service = server.service_url()
        await asyncio.to_thread(server.run, "psql", "-Xqd", service, "-c", each)


async def count(server: Postgres, query: str) -> int:
    return int((await server.fetch(query))[0][0])


async def killed(server: Postgres, jobs: int, workers: int, servers: int) -> list[Row]:
    """So many jobs of each kind, and so many kills of a worker and of PostgreSQL."""
    await enqueue(server, ENQUEUE.format(jobs))
    step = jobs // (workers + servers + 1)
    for _ in range(workers):
        with worker(server):
            await progress(server, step)
    with worker(server):
        for _ in range(servers):
            await progress(server, step)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)

        async def none_is_left() -> bool:
            return await count(server, LEFT) == 0

        began = time.monotonic()
        await until(none_is_left, 180)
    tables = ("booked", "rung")
    booked, rung = [(await server.fetch(COUNTED.format(table)))[0] for table in tables]
    seconds = time.monotonic() - began
    return [
        Row(
            "no job is lost, whatever is killed",
            f"{booked['numbers']} and {rung['numbers']} of {jobs} each, {seconds:.0f} s later",
            holds=booked["numbers"] == rung["numbers"] == jobs,
        ),
        Row(
            "what a transactional one does is done once",
            f"{booked['rows']} rows",
            holds=booked["rows"] == jobs,
        ),
        Row(
            "an external one may be done again",
            f"{rung['rows'] - jobs} of {jobs}",
            holds=rung["rows"] <= jobs + 16 * (workers + servers),
        ),
    ]


async def progress(server: Postgres, step: int) -> None:
    """Wait until so many more are done."""
    goal = await count(server, DONE) + step

    async def reached() -> bool:
        return await count(server, DONE) >= goal or await count(server, LEFT) == 0

    await until(reached, 60)


@drill("J1", "kill -9 of workers, 20 times, and of PostgreSQL, 5 times, under 1,000 jobs")
async def kills(folder: Path) -> list[Row]:
    async with postgres(folder) as server:
        return await killed(server, jobs=500, workers=20, servers=5)


async def terminated(server: Postgres) -> list[Row]:
    """A worker that is told to end while its jobs run."""
    await enqueue(server, LONG.format(4))

    async def states() -> list[tuple[str, int]]:
        return [(row["state"], row["attempts"]) for row in await server.fetch(STATES)]

    async def all_run() -> bool:
        return await states() == [("running", 1)]

    with worker(server) as process:
        await until(all_run, 60)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(process.wait, 30)
        seconds = time.monotonic() - began
    left, rows = await states(), await count(server, DONE)
    return [
        Row(
            f"it ends within the drain of {DRAIN_SECONDS} s, and 2 s",
            f"{seconds:.1f} s, status {status}",
            holds=seconds < DRAIN_SECONDS + 2 and status == 0,
        ),
        Row("its jobs wait, and no attempt is lost", f"{left}", holds=left == [("waiting", 0)]),
        Row("nothing of them is left", f"{rows} rows", holds=rows == 0),
    ]


@drill("J2", "SIGTERM to a worker whose jobs take long")
async def ending(folder: Path) -> list[Row]:
    async with postgres(folder) as server:
        return await terminated(server)


async def scheduled(server: Postgres, ticks: int) -> list[Row]:
    """Two workers, and a schedule of one tick every other second."""
    await enqueue(server, "SELECT 1")
    with worker(server), worker(server):

        async def enough() -> bool:
            return await count(server, "SELECT count(*) FROM struck") >= ticks

        await until(enough, 2 * ticks + 60)
        await asyncio.sleep(0.7)
    (seen,) = await server.fetch(TICKS)
    return [
        Row(
            "each tick has one row, and none is missing",
            f"{seen['ticks']} of {seen['due']} ticks",
            holds=seen["ticks"] == seen["due"] > ticks,
        ),
        Row(
            "each has run once, but for the first",
            f"{seen['runs']} runs of {seen['struck']} ticks",
            holds=seen["done"] - 1 <= seen["runs"] == seen["struck"] <= seen["ticks"] - 1,
        ),
    ]


@drill("J3", "two workers and a schedule, 100 ticks")
async def ticking(folder: Path) -> list[Row]:
    async with postgres(folder) as server:
        return await scheduled(server, ticks=100)


async def limited(server: Postgres) -> list[Row]:
    """Two workers, of which one is told to end, and a task of which two may run at once."""
    await enqueue(server, SHARED)
    with worker(server) as one, worker(server) as other:

        async def is_half_done() -> bool:
            return await count(server, LEFT) <= 30

        async def none_is_left() -> bool:
            return await count(server, LEFT) == 0

        await until(is_half_done, 60)
        busy = await count(server, BUSY)
        (one if one.pid == busy else other).send_signal(signal.SIGTERM)
        await until(none_is_left, 60)
    (seen,) = await server.fetch(AT_ONCE)
    return [
        Row(
            "two at once, and never more, in all processes",
            f"{seen['most']} of {seen['ended']} at once, in {seen['processes']} processes",
            holds=(seen["most"], seen["ended"], seen["processes"]) == (2, 60, 2),
        )
    ]


@drill("J4", "two workers and a task with a limit of two at once")
async def sharing(folder: Path) -> list[Row]:
    async with postgres(folder) as server:
        return await limited(server)
