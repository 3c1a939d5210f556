"""Run the service as its users do: `uvicorn service:app`, in a process of its own."""

import asyncio
import atexit
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

import httpx
from anyio import to_thread

from kernel.settings import ROOT, slice_settings
from kernel.testing.callers import PASSWORD
from kernel.tests.app import PATHS, account_body, mount

STARTED = re.compile(r"Started server process \[(\d+)\]")
PATIENCE = 20  # seconds, for a start on a busy machine


@dataclass
class Service:
    """A running service, and a client that connects anew for each request, so to any worker."""

    process: "subprocess.Popen[bytes]"
    client: httpx.AsyncClient
    port: int
    log: Path

    async def sign_up(self, name: str) -> None:
        """Make an account and sign the client in as it."""
        email = f"{name}@example.com"
        account = account_body(email=email, password=PASSWORD)
        (await self.client.post(PATHS["create_user"], json=account)).raise_for_status()
        form = {"username": email, "password": PASSWORD}
        answer = await self.client.post(PATHS["create_token"], data=form)
        self.client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    async def status(self, path: str) -> int:
        """The status of a GET, or 0 when nobody answers."""
        try:
            return (await self.client.get(path)).status_code
        except httpx.TransportError:
            return 0

    async def reaches(self, path: str, seconds: float = PATIENCE, status: int = 200) -> None:
        """Wait until a GET answers with the status."""

        async def reached() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended with {self.process.returncode}")
            return await self.status(path) == status

        await until(reached, seconds)

    async def stop(self) -> int:
        """Send SIGTERM, and wait for the exit status."""
        self.process.terminate()
        return await to_thread.run_sync(self.process.wait, 15)

    async def kill(self) -> None:
        self.process.kill()
        await to_thread.run_sync(self.process.wait)

    def workers(self) -> set[int]:
        """The processes that `--workers` or `--reload` started."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = set()
        for pid in children.read_text().split():
            with suppress(OSError):  # it ended while we looked
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(int(pid))
        return found

    def started(self) -> list[int]:
        """The workers that serve, the one that has served longest first."""
        workers = self.workers()
        pids = map(int, STARTED.findall(self.log.read_text()))
        return [pid for pid in pids if pid in workers]

    def lines(self) -> list[dict[str, Any]]:
        """What it logged, each line read as JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def memory(self, field: str) -> int:
        """Bytes of `VmRSS`, or of its peak, `VmHWM`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) * 1024


@cache
def _logs() -> Path:
    """A folder for the services' logs, which is removed when the tests end."""
    folder = Path(mkdtemp(prefix="service-logs-"))
    atexit.register(shutil.rmtree, folder)
    return folder


@asynccontextmanager
async def serve(
    checkout: Path, *options: str, python: str = sys.executable, user: int | None = None, **app: Any
) -> AsyncIterator[Service]:
    """Start the service on a checkout and wait for `/livez`; `app` holds its `APP_…` variables.
    Another app may be named in front of the options: `serve(checkout, "package.module:app")`."""
    port = free_port()
    log = _logs() / f"{port}.log"
    process = launch(checkout, log, *options, "--port", str(port), python=python, user=user, **app)
    limits = httpx.Limits(max_keepalive_connections=0)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=15, trust_env=False
        ) as client:
            service = Service(process, client, port, log)
            await service.reaches("/livez")
            yield service
    except BaseException as error:
        error.add_note(f"The service's log:\n{log.read_text()}")
        raise
    finally:
        end(process)


def launch(
    checkout: Path,
    log: Path,
    *options: str,
    python: str = sys.executable,
    user: int | None = None,
    **app: Any,
) -> "subprocess.Popen[bytes]":
    """Start uvicorn in a session of its own, with nothing of our environment but the PATH, and what
    the tests have set for slices."""
    environment = {"PATH": os.environ["PATH"], **variables_of_slices()}
    if python != sys.executable:
        environment["PYTHONPATH"] = sysconfig.get_path("purelib")
    target = [] if options and options[0].endswith(":app") else ["service:app"]
    with log.open("wb") as output:
        return subprocess.Popen(
            [python, "-m", "uvicorn", *target, *options],
            cwd=checkout,
            env=environment | {f"APP_{name.upper()}": str(value) for name, value in app.items()},
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )


def variables_of_slices() -> dict[str, str]:
    """What the environment has of slices' own settings: a team's `conftest.py` may have set it."""
    names = {
        f"{kind.model_config.get('env_prefix', '')}{field}".upper()
        for kind in slice_settings()
        for field in kind.model_fields
    }
    return {name: os.environ[name] for name in names & os.environ.keys()}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def end(process: "subprocess.Popen[bytes]") -> None:
    """Leave nothing of the process and its children, whatever a test has done."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def checkout_in(folder: Path) -> Iterator[Path]:
    """A copy of the service's source, with the tests' slice in it.

    Whatever process still lives in it is killed on leaving.
    """
    folder.mkdir(parents=True)
    for name in ("service.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("features", "kernel", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    mount(folder)
    try:
        yield folder
    finally:
        for pid in processes_in(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def processes_in(folder: Path) -> dict[int, str]:
    """The processes whose working directory lies in the folder: uvicorn's and PostgreSQL's."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended while we looked
            if (process / "cwd").readlink().is_relative_to(folder):
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
    return {pid: command for pid, command in found.items() if command}  # zombies have no words


async def until(true: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Wait for something to come true.

    Raises:
        TimeoutError: it did not, within the time.
    """
    deadline = time.monotonic() + seconds
    while not await true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        await asyncio.sleep(0.02)


class Forwarder:
    """A TCP port of 127.0.0.1 that leads to a server's unix socket once it is `open`."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        # Bound without listening: connections are refused, and nobody else gets the port.
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.server: asyncio.Server | None = None
        self.pipes: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self.server = await asyncio.start_server(self._forward, sock=self.socket)

    async def _forward(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        server, forth = await asyncio.open_unix_connection(self.socket_path)
        for reader, writer in ((client, forth), (server, back)):
            pipe = asyncio.create_task(_pump(reader, writer))
            self.pipes.add(pipe)
            pipe.add_done_callback(self.pipes.discard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.server:
            self.server.close()
        for pipe in list(self.pipes):
            pipe.cancel()
        await asyncio.gather(*self.pipes, return_exceptions=True)
        self.socket.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
