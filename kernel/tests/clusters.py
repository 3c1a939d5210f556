"""A primary and its streaming standby, of the development server's binaries, on TCP, and a service
on them."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
from fastapi import APIRouter

from kernel.dev.embedded import INITDB, binaries, claim
from kernel.settings import Settings
from kernel.testing.callers import PASSWORD, Caller
from kernel.tests.app import PATHS, account_body, create_app
from kernel.tests.processes import free_port

SETTINGS = {
    "fsync": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "16MB",
    # In its folder: a server that is killed would leave files in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}
PATIENCE = 30  # seconds, for a start on a busy machine


class Cluster:
    """One server, in a folder of its own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder, self.settings = folder, SETTINGS | settings
        self.binaries = binaries()
        self.become = claim(folder, self.binaries)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def init(self) -> Self:
        program, *options = INITDB.split()
        self.run(program, *options)
        (self.folder / "new").rename(self.folder / "data")
        return self

    def clone(self, primary: "Cluster") -> Self:
        """Become its standby."""
        self.run("pg_basebackup", "-D", "data", "-R", "-X", "stream", "-c", "fast", *primary.where)
        return self

    def start(self) -> Self:
        settings = [word for each in self.settings.items() for word in ("-c", "=".join(each))]
        postgres = str(self.binaries / "postgres")
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.become, postgres, "-D", "data", "-p", str(self.port), *settings],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while self._call("pg_isready", "-q", *self.where).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "server.log").read_text()[-2000:])
            time.sleep(0.05)
        return self

    def promote(self) -> None:
        self.sql("SELECT pg_promote()")

    def signal(self, number: signal.Signals) -> None:
        """To the server and to each of its processes, as if its machine had got it."""
        if self.process is not None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            pids = [self.process.pid, *map(int, children.read_text().split())]
            for pid in pids:
                with suppress(ProcessLookupError):  # a backend has just ended
                    os.kill(pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """End it, whatever a test has done."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            self._wait()

    def demote(self, primary: "Cluster") -> Self:
        """Come back as a standby of another one."""
        self.stop()
        shutil.rmtree(self.folder / "data")
        return self.clone(primary).start()

    def sql(self, statement: str, database: str = "postgres") -> str:
        return self.run("psql", "-XAtqd", database, "-c", statement, *self.where)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def where(self) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres")

    def _wait(self) -> None:
        if self.process is not None:
            self.process.wait(10)

    def run(self, program: str, *options: str) -> str:
        """What one of PostgreSQL's programs prints.

        Raises:
            RuntimeError: it failed.
        """
        done = self._call(program, *options)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def _call(self, program: str, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.become, str(self.binaries / program), *options],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
        )


def url_of(*clusters: Cluster, target: str = "any") -> str:
    hosts = ",".join(f"127.0.0.1:{cluster.port}" for cluster in clusters)
    return f"postgresql://postgres@{hosts}/app?target_session_attrs={target}"


@asynccontextmanager
async def served(
    database_url: str,
    read_database_url: str | None = None,
    *,
    router: APIRouter | None = None,
    **changes: Any,
) -> AsyncIterator[Caller]:
    """A client of a service with these databases, whose URLs are read as they are at a start."""
    urls: dict[str, Any] = {"database_url": database_url, "read_database_url": read_database_url}
    settings: dict[str, Any] = {"env": "dev", "jwt_secret": "x" * 32, **urls, **changes}
    app = create_app(Settings(_env_file=None, **settings))
    if router is not None:
        app.include_router(router)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        Caller(transport=transport, base_url="http://test") as client,
    ):
        client.app = app
        yield client


async def sign_up(client: Caller, name: str) -> None:
    """Make an account, and sign the client in as it."""
    account = account_body(email=f"{name}@example.com", password=PASSWORD)
    (await client.post(PATHS["create_user"], json=account)).raise_for_status()
    await sign_in(client, name)


async def sign_in(client: Caller, name: str) -> None:
    form = {"username": f"{name}@example.com", "password": PASSWORD}
    answer = await client.post(PATHS["create_token"], data=form)
    client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
