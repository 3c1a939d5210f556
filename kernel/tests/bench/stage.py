"""What a measurement needs: a database, a system in a process of its own, and wrk's load on it.

The system's worker has a CPU to itself; Postgres, wrk and we share the other one.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from features.auth.handlers.access import TokenSigner
from kernel.data.schema import upgrade_schema
from kernel.dev.embedded import as_service, as_superuser, server
from kernel.settings import ROOT

APP_CPUS, OTHER_CPUS = {0}, {1}
SCRIPT = Path(__file__).with_name("load.lua")
TICK = 1e6 / os.sysconf("SC_CLK_TCK")  # µs
SECRET = "a1b2c3d4e5f60789" * 2
OWNER, ADMIN = (
    TokenSigner("julienne", [SECRET], 86_400).issue(user_id, UUID(int=user_id))
    for user_id in (1, 2)
)
USERS = """
    INSERT INTO users (email, full_name, password_hash, role)
    SELECT 'user' || n || '@example.com', 'User ' || n, 'none',
        CASE n WHEN 2 THEN 'admin' ELSE 'member' END
    FROM generate_series(1, 300) AS n
"""
SIGN_INS = """
    INSERT INTO refresh_tokens (user_id, family, digest, expires_at)
    SELECT n, lpad(to_hex(n), 32, '0')::uuid, n::text::bytea, now() + interval '1 day'
    FROM generate_series(1, 2) AS n
"""
ITEMS = """
    INSERT INTO items (title, description, owner_id)
    SELECT CASE n WHEN 500 THEN 'Rarity' ELSE 'Soup ' || n END, 'With leek, for ' || n,
        CASE n % $2 WHEN 0 THEN 1 ELSE 3 + n % 298 END
    FROM generate_series(1, $1::int) AS n
"""


class Failed(Exception):
    """There is no figure to be had; the message says why."""


@dataclass(frozen=True)
class Items:
    """A filled table: of `count` items, every `step`th is the owner's, whose token is OWNER."""

    url: str
    count: int
    step: int

    @property
    def folder(self) -> Path:
        """The server's."""
        return Path(self.url.partition("host=")[2].partition("&")[0])

    async def forget_created(self) -> None:
        """Take away what POSTs have left, so that each system writes into the same table."""
        async with _connected(self.url) as connection:
            await connection.execute("DELETE FROM items WHERE id > $1", self.count)
            await connection.execute("VACUUM ANALYZE items")
            await connection.execute("CHECKPOINT")


@contextmanager
def postgres(cpus: set[int]) -> Iterator[tuple[str, Path]]:
    """A durable server of our own, and a folder for logs; both are gone afterwards."""
    os.sched_setaffinity(0, cpus)  # what we start inherits it
    with TemporaryDirectory() as folder, server(Path(folder) / "pg", durable=True) as url:
        yield as_superuser(url), Path(folder)


async def fill(server_url: str, count: int, step: int) -> Items:
    """A new database with this many items."""
    name = f"items_{count}"
    async with _connected(server_url) as connection:
        await connection.execute(f"CREATE DATABASE {name} OWNER app")
        await connection.execute("GRANT pg_checkpoint TO app")
    url = as_service(server_url, name)
    await upgrade_schema(url)
    async with _connected(url) as connection:
        await connection.execute(USERS)
        await connection.execute(SIGN_INS)
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
    words: str
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

    def memory(self, field: str) -> float:
        """MB of `Rss` or `Pss`, of a process that serves."""
        pids = [pid for pid in tree(self.pid)[1:] if b"spawn_main" in _proc(pid, "cmdline")]
        rollups = [_proc(pid, "smaps_rollup").decode() for pid in pids or [self.pid]]
        return mean(int(each.split(f"{field}:")[1].split()[0]) / 1024 for each in rollups)


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    children = _proc(pid, f"task/{pid}/children").split()
    return [pid, *(each for child in children for each in tree(int(child)))]


def cpu(pid: int) -> float:
    """µs of CPU, user and system, that a process and its ended children have used."""
    fields = _proc(pid, "stat").rpartition(b")")[2].split()
    return sum(map(int, fields[11:15])) * TICK


def _proc(pid: int, name: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""  # it ended while we looked


@asynccontextmanager
async def serving(
    system: System,
    database_url: str,
    log: Path,
    *options: str,
    cpus: set[int] = APP_CPUS,
    environment: Mapping[str, str] | None = None,
    **variables: object,
) -> AsyncIterator[Running]:
    """Run the system until we are through, with its `APP_…` variables and those of others, or fail
    with its log."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables |= {"env": "prod", "database_url": database_url, "jwt_secret": SECRET}
    own = {f"APP_{name.upper()}": f"{value}" for name, value in variables.items()}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *("taskset", "--cpu-list", ",".join(map(str, cpus)), sys.executable),
            *("-m", "uvicorn", system.app, "--port", f"{port}", *system.options, *options),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **own, **(environment or {})},
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
        while process.returncode is None:
            with suppress(httpx.TransportError):
                await client.get(f"{running.url}/items")
                return
            await asyncio.sleep(0.05)
    raise Failed(f"it did not start:\n{log.read_text()}")  # noqa: ASYNC240  # it is short


@dataclass(frozen=True)
class Operation:
    """A request to measure: `{id}` in its path becomes an id of the owner's, another each time."""

    name: str
    path: str
    body: str = ""
    token: str = OWNER

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"

    @property
    def headers(self) -> dict[str, str]:
        media_type = {"Content-Type": "application/json"} if self.body else {}
        return {"Authorization": f"Bearer {self.token}", **media_type}


@dataclass(frozen=True)
class Load:
    """How hard to press: keep-alive connections, and seconds after a warm-up."""

    connections: int
    seconds: int


@dataclass(frozen=True)
class Sample:
    """What one run of wrk showed: latencies in ms, CPU in µs for each request, MB afterwards."""

    rate: float
    p50: float
    p99: float
    cpu: float
    database_cpu: float
    memory: float


async def press(running: Running, operation: Operation, items: Items, load: Load) -> Sample:
    """Warm the system up, then measure it."""
    postmaster = int((items.folder / "data/postmaster.pid").read_text().split()[0])
    try:
        await _wrk(running, operation, items, Load(load.connections, 1))
        before = running.cpu(), sum(map(cpu, tree(postmaster)))
        said = await _wrk(running, operation, items, load)
        after = running.cpu(), sum(map(cpu, tree(postmaster)))
        memory = running.memory("Rss")
    finally:
        if operation.method == "POST":
            await items.forget_created()
    requests, rate = said["requests"], said["requests"] / said["seconds"]
    own, database = ((late - early) / requests for early, late in zip(before, after, strict=True))
    return Sample(rate, said["p50"], said["p99"], own, database, memory)


async def _wrk(running: Running, operation: Operation, items: Items, load: Load) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", "-T10s", f"-c{load.connections}", f"-d{load.seconds}s", "-s", SCRIPT),
        *(running.url, "--", operation.token, operation.method, operation.path),
        *(operation.body, f"{items.step}", f"{items.count // items.step}"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    said: dict[str, Any] = json.loads(output.decode().splitlines()[-1])
    if said["errors"] or not said["requests"]:
        raise Failed(f"{operation.name}, of {said['requests']}: {said['errors'] or 'no answer'}")
    return said
