"""The drills of signals: what clients see while workers end, bare and behind HAProxy.

`uv run python -m kernel.tests.faults.signals` prints a table; it takes about two minutes.
"""

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from kernel.dev.embedded import server
from kernel.testing.callers import PASSWORD
from kernel.tests.app import PATHS, account_body, migrate
from kernel.tests.processes import PATIENCE, Service, checkout_in, end, launch, serve, until

# An id, what is to hold, what was seen, and whether it holds.
Row = tuple[str, str, str, bool]
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
SIGNALS, RESTARTS = 6, 5
DRAIN, RATE = 3.0, 150.0
CHECKED_SECONDS = 2.0
IMAGE = (
    *("--http", "kernel.http.server:Protocol", "--timeout-keep-alive", "75"),
    *("--timeout-graceful-shutdown", "10", "--timeout-worker-healthcheck", "20"),
)
# Away within two looks, which is less than the drain.
BALANCER = """
defaults
    mode http
    timeout connect 2s
    timeout client 20s
    timeout server 20s
    option redispatch
frontend door
    bind 127.0.0.1:{door}
    default_backend service
backend service
    option httpchk GET /readyz
    default-server check inter 500ms fall 2 rise 1
    server one 127.0.0.1:{one}
    server two 127.0.0.1:{two}
"""


class Clients:
    """Requests at a steady rate: each on a connection of its own, or on kept ones."""

    def __init__(self, port: int, token: str, *, keep: bool, rate: float = RATE) -> None:
        self.port, self.keep, self.rate = port, keep, rate
        self.request = f"GET /users/me HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
        self.seen: Counter[str] = Counter()
        self.is_over = False

    async def __aenter__(self) -> Self:
        self.tasks = [asyncio.create_task(self._client()) for _ in range(12)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_over = True
        await asyncio.gather(*self.tasks)

    @property
    def failed(self) -> dict[str, int]:
        return {what: count for what, count in self.seen.items() if what != "200"}

    @property
    def told(self) -> str:
        return f"{sum(self.failed.values())} of {self.seen.total()} failed {self.failed or ''}"

    async def _client(self) -> None:
        writer: asyncio.StreamWriter | None = None
        while not self.is_over:
            began = time.monotonic()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    kind = "new"
                outcome, is_kept = await self._ask(reader, writer)
            except (OSError, asyncio.IncompleteReadError) as error:
                outcome, is_kept = f"{kind}: {type(error).__name__}", False
            kind = "kept"
            self.seen[outcome] += 1
            if writer and not is_kept:
                writer.close()
                writer = None
            pause = 12 / self.rate * random.uniform(0.5, 1.5)  # noqa: S311  # not all at once
            await asyncio.sleep(max(0.0, began + pause - time.monotonic()))
        if writer:
            writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, bool]:
        close = "" if self.keep else "Connection: close\r\n"
        writer.write(f"{self.request}{close}\r\n".encode())
        await writer.drain()
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
        return head.split()[1].decode(), self.keep and b"connection: close" not in head


async def signalled_workers(lab: "Lab") -> list[Row]:
    """SIGTERM to one of two workers, again and again, under clients without a balancer."""
    rows = []
    for keep, what in ((False, "new connections"), (True, "kept connections")):
        async with lab.serve("--workers", "2") as (service, token):
            async with Clients(service.port, token, keep=keep) as clients:
                for _ in range(SIGNALS):
                    worker = random.choice([*service.workers()])  # noqa: S311
                    os.kill(worker, signal.SIGTERM)
                    await until(lambda w=worker: _is_replaced(service, w), 30)  # type: ignore[misc]  # mypy knows no default of a lambda
            is_well = not clients.failed
            rows.append(("P1b", f"bare, SIGTERM x{SIGNALS}, {what}", clients.told, is_well))
    return rows


async def _is_replaced(service: Service, worker: int) -> bool:
    return worker not in service.workers() and len(service.workers()) == 2


async def signalled_alone(lab: "Lab") -> list[Row]:
    """SIGTERM to a service of one process: who has a connection is told, and never reset."""
    async with lab.serve() as (service, token), Clients(service.port, token, keep=True) as clients:
        await asyncio.sleep(1)
        began = time.monotonic()
        service.process.terminate()
        await asyncio.to_thread(service.process.wait, 20)
        took = time.monotonic() - began
        clients.is_over = True
    lost = {what: count for what, count in clients.failed.items() if "Refused" not in what}
    told = f"{lost or 'none'} of {clients.seen.total()}, ended after {took:.1f} s"
    return [("P1b", "bare and alone, SIGTERM: no kept connection is reset", told, not lost)]


async def restarted_workers(lab: "Lab") -> list[Row]:
    """SIGHUP to the parent of two workers: each is replaced, once its successor serves."""
    rows = []
    for keep, what in ((False, "new connections"), (True, "kept connections")):
        async with lab.serve("--workers", "2") as (service, token):
            began = time.monotonic()
            async with Clients(service.port, token, keep=keep) as clients:
                for _ in range(RESTARTS):
                    old = service.workers()
                    service.process.send_signal(signal.SIGHUP)
                    await until(lambda o=old: _all_replaced(service, o), 60)  # type: ignore[misc]  # mypy knows no default of a lambda
            took = (time.monotonic() - began) / RESTARTS
            told = f"{clients.told}, {took:.1f} s each"
            rows.append(("P2", f"SIGHUP x{RESTARTS}, {what}", told, not clients.failed))
    return rows


async def _all_replaced(service: Service, old: set[int]) -> bool:
    return not old & service.workers() and len(service.workers()) == 2


async def signalled_behind_a_balancer(lab: "Lab") -> list[Row]:
    """SIGTERM to one of two instances behind HAProxy, which asks each for `/readyz`."""
    if HAPROXY is None:
        return [("P1b", "behind HAProxy", "haproxy is not installed", False)]
    rows = []
    for keep, what in ((False, "new connections"), (True, "kept connections")):
        ports = [free_port(), free_port()]
        running = [lab.launch(port) for port in ports]
        async with _balanced(*ports) as door:
            await until(lambda: _all_ready(ports), PATIENCE)  # noqa: B023  # waited for at once
            await asyncio.sleep(CHECKED_SECONDS)
            async with Clients(door, await lab.token(ports[0]), keep=keep) as clients:
                for number in range(SIGNALS):
                    place = number % 2
                    running[place].terminate()
                    await asyncio.to_thread(running[place].wait, 20)
                    running[place] = lab.launch(ports[place])
                    await until(lambda: _all_ready(ports), PATIENCE)  # noqa: B023
                    await asyncio.sleep(CHECKED_SECONDS)
        for process in running:
            end(process)
        is_well = not clients.failed
        rows.append(("P1b", f"behind HAProxy, SIGTERM x{SIGNALS}, {what}", clients.told, is_well))
    return rows


async def _all_ready(ports: list[int]) -> bool:
    return all([await _status(port, "/readyz") == 200 for port in ports])


async def _status(port: int, path: str) -> int:
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://127.0.0.1:{port}{path}")).status_code
    except httpx.TransportError:
        return 0


@asynccontextmanager
async def _balanced(one: int, two: int) -> AsyncIterator[int]:
    with tempfile.TemporaryDirectory() as folder:
        file, door = Path(folder) / "haproxy.cfg", free_port()
        file.write_text(BALANCER.format(door=door, one=one, two=two))
        command = [str(HAPROXY), "-db", "-f", str(file)]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stderr=log, start_new_session=True)  # noqa: ASYNC220  # which returns at once
        try:
            yield door
        finally:
            end(process)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Lab:
    """A database and a checkout; the service is started on them as the image does."""

    def __init__(self, folder: Path, checkout: Path, url: str) -> None:
        self.folder, self.checkout = folder, checkout
        self.settings: dict[str, Any] = {
            "database_url": url,
            "jwt_secret": "drill" * 8,
            "drain": DRAIN,
        }

    @asynccontextmanager
    async def serve(self, *options: str) -> AsyncIterator[tuple[Service, str]]:
        """The service, and a caller's token."""
        # What is served may be named in front.
        async with serve(self.checkout, *options, *IMAGE, **self.settings) as service:
            yield service, await self.token(service.port)

    def launch(self, port: int) -> "subprocess.Popen[bytes]":
        log = self.folder / f"{port}.log"
        return launch(self.checkout, log, *IMAGE, "--port", str(port), **self.settings)

    async def token(self, port: int, name: str = "drill") -> str:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20
        ) as client:
            account = account_body(email=f"{name}@example.com", password=PASSWORD)
            await client.post(PATHS["create_user"], json=account)
            form = {"username": f"{name}@example.com", "password": PASSWORD}
            answer = await client.post(PATHS["create_token"], data=form)
            return f"Bearer {answer.json()['access_token']}"


DRILLS: list[Callable[[Lab], Awaitable[list[Row]]]] = [
    signalled_workers,
    signalled_alone,
    restarted_workers,
    signalled_behind_a_balancer,
]


async def laboratory(
    drills: Sequence[Callable[[Lab], Awaitable[list[Row]]]], chosen: Sequence[str]
) -> AsyncIterator[Row]:
    """The rows of all drills, or of the named ones, as they come."""
    with tempfile.TemporaryDirectory(prefix="drill-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240  # which returns at once
        with server(folder / "pg") as url, checkout_in(folder / "source") as checkout:
            await migrate(url)
            for each in drills:
                if not chosen or each.__name__ in chosen:
                    for row in await each(Lab(folder, checkout, url)):
                        yield row


async def print_rows(rows: AsyncIterator[Row]) -> int:
    """Print a table as its rows come, and give the number of those that do not hold."""
    failed = 0
    async for name, what, figure, holds in rows:
        failed += not holds
        print(f"| {name} | {what} | {figure} | {'holds' if holds else '**fails**'} |", flush=True)  # noqa: T201  # a command's output
    return failed


def drill(chosen: Sequence[str] = ()) -> AsyncIterator[Row]:
    """The rows of these drills, or of the named ones, as they come."""
    return laboratory(DRILLS, chosen)


if __name__ == "__main__":
    sys.exit(asyncio.run(print_rows(drill(sys.argv[1:]))))
