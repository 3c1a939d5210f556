"""What a measurement needs: a database, a system in a process of its own, and wrk's load on it.

The system's worker has a CPU to itself; Postgres, wrk and we share the other one.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import httpx

from features.auth.handlers.access import TokenSigner
from features.kernel.embedded import server
from features.kernel.schema import upgrade_schema
from features.kernel.settings import ROOT

APP_CPU, OTHER_CPU = 0, 1
SCRIPT = Path(__file__).with_name("load.lua")
TICK = 1e6 / os.sysconf("SC_CLK_TCK")  # µs
SECRET = "bench" * 8
OWNER, ADMIN = (TokenSigner([SECRET], 86_400).issue(user_id) for user_id in (1, 2))
USERS = """
    INSERT INTO users (email, full_name, password_hash, role)
    SELECT 'user' || n || '@example.com', 'User ' || n, 'none',
        CASE n WHEN 2 THEN 'admin' ELSE 'member' END
    FROM generate_series(1, 300) AS n
"""
ITEMS = """
    INSERT INTO items (title, description, owner_id)
    SELECT 'Soup ' || n, 'With leek, for ' || n, CASE n % $2 WHEN 0 THEN 1 ELSE 3 + n % 298 END
    FROM generate_series(1, $1::int) AS n
"""


@dataclass(frozen=True)
class Items:
    """A filled table: of `count` items, every `step`th is the owner's, whose token is OWNER."""

    url: str
    count: int
    step: int

    async def forget_created(self) -> None:
        """Take away what POSTs have left, so that each system writes into the same table."""
        async with _connected(self.url) as connection:
            await connection.execute("DELETE FROM items WHERE id > $1", self.count)
            await connection.execute("VACUUM ANALYZE items")
            await connection.execute("CHECKPOINT")


@contextmanager
def postgres() -> Iterator[tuple[str, Path]]:
    """A durable server of our own, and a folder for logs; both are gone afterwards."""
    os.sched_setaffinity(0, {OTHER_CPU})  # what we start inherits it
    with TemporaryDirectory() as folder, server(Path(folder) / "pg", durable=True) as url:
        yield url, Path(folder)


async def fill(server_url: str, count: int, step: int) -> Items:
    """A new database with this many items."""
    name = f"items_{count}"
    async with _connected(server_url) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    url = server_url.replace("/postgres?", f"/{name}?")
    await upgrade_schema(url)
    async with _connected(url) as connection:
        await connection.execute(USERS)
        await connection.execute(ITEMS, count, step)
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    return Items(url, count, step)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@dataclass(frozen=True)
class System:
    """Something to measure: an ASGI app, served by uvicorn with these options."""

    name: str
    app: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Running:
    """A system's process, and where it listens."""

    pid: int
    url: str

    def cpu(self) -> float:
        """µs of CPU that its processes have used."""
        return sum(map(cpu, tree(self.pid)))

    def memory(self, field: str) -> list[int]:
        """KiB of `Rss` or `Pss`, for each process that serves."""
        pids = tree(self.pid)
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
        return [int(each.split(f"{field}:")[1].split()[0]) for each in rollups]


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in tree(int(child)))]


def cpu(pid: int) -> float:
    """µs of CPU, user and system, that a process and its ended children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * TICK


@asynccontextmanager
async def serving(
    system: System, database_url: str, log: Path, *options: str, pinned: bool = True, **app: str
) -> AsyncIterator[Running]:
    """Run the system until we are through, or fail with its log."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cpus = f"{APP_CPU}" if pinned else f"0-{(os.cpu_count() or 1) - 1}"
    environment = {"PATH": os.environ["PATH"], "APP_ENV": "prod", **app}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *("taskset", "--cpu-list", cpus, sys.executable, "-m", "uvicorn", system.app),
            *("--port", f"{port}", *system.options, *options),
            cwd=ROOT,
            env=environment | {"APP_DATABASE_URL": database_url, "APP_JWT_SECRET": SECRET},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        running = Running(process.pid, f"http://127.0.0.1:{port}")
        await _answers(process, running, log)
        yield running
    finally:
        with suppress(ProcessLookupError, TimeoutError):
            process.terminate()
            await asyncio.wait_for(process.wait(), 5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _answers(process: asyncio.subprocess.Process, running: Running, log: Path) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as client:
        while True:
            with suppress(httpx.TransportError):
                await client.get(f"{running.url}/items")
                return
            if process.returncode is not None:
                raise RuntimeError(f"it did not start:\n{log.read_text()}")
            await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Operation:
    """A request to measure: `{id}` in its path becomes an id of the owner's, another each time."""

    name: str
    method: str
    path: str
    body: str = ""


@dataclass(frozen=True)
class Load:
    """How hard to press: keep-alive connections, and seconds after a warm-up."""

    connections: int
    seconds: int


@dataclass(frozen=True)
class Sample:
    """What one run of wrk showed: latencies in ms, CPU in µs for each request."""

    rate: float
    p50: float
    p99: float
    cpu: float
    database_cpu: float


async def press(
    running: Running, operation: Operation, items: Items, load: Load, token: str = OWNER
) -> Sample:
    """Warm the system up, then measure it."""
    await _wrk(running, operation, items, token, load.connections, 1)
    postmaster = _postmaster(items.url)
    before = running.cpu(), sum(map(cpu, tree(postmaster)))
    said = await _wrk(running, operation, items, token, load.connections, load.seconds)
    after = running.cpu(), sum(map(cpu, tree(postmaster)))
    if operation.method == "POST":
        await items.forget_created()
    used = [(late - early) / said["requests"] for early, late in zip(before, after, strict=True)]
    return Sample(said["requests"] / said["seconds"], said["p50"], said["p99"], *used)


def _postmaster(url: str) -> int:
    folder = Path(url.partition("host=")[2].partition("&")[0])
    return int((folder / "data/postmaster.pid").read_text().split()[0])


async def _wrk(
    running: Running, operation: Operation, items: Items, token: str, connections: int, seconds: int
) -> dict[str, float]:
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    process = await asyncio.create_subprocess_exec(
        *(program, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", SCRIPT),
        *(running.url, "--", token, operation.method, operation.path, operation.body),
        *(f"{items.step}", f"{items.count // items.step}"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    said: dict[str, float] = json.loads(output.decode().splitlines()[-1])
    if said["errors"] or not said["requests"]:
        raise SystemExit(f"{operation.name} failed under load:\n{output.decode()}")
    return said
