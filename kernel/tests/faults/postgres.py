"""A PostgreSQL of a drill's own: it is killed, frozen, copied and promoted."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from kernel.dev.embedded import INITDB, binaries, claim
from kernel.settings import ROOT
from kernel.tests.app import migrate
from kernel.tests.processes import free_port, until

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "wal_level": "replica",
}
STREAMING = "SELECT FROM pg_stat_replication WHERE state = 'streaming'"


class Postgres:
    """A server on a TCP port, with what `deploy/roles.sql` makes: the service's role and database.

    Everybody on this machine may connect as anybody: what a drill is about is not who comes in.
    """

    def __init__(self, folder: Path, port: int | None = None, **settings: str) -> None:
        self.folder, self.port = folder, port or free_port()
        self.settings = SETTINGS | settings
        self.binaries = binaries()
        self.become = claim(folder, self.binaries)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def superuser_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def url(self, user: str = "julienne", database: str = "julienne") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    async def initialize(self) -> None:
        await self.run(*INITDB.replace("-D new", "-D data").split())

    async def create(self) -> None:
        """Make the service's role, its database and all tables, as an operator would."""
        options = ("-Xq", "-v", "ON_ERROR_STOP=1", "-f", "-", self.superuser_url)
        roles = (ROOT / "deploy/roles.sql").read_bytes()
        await self.run("psql", *options, stdin=roles, POSTGRES_PASSWORD="drill")
        await migrate(self.url())

    async def follow(self, primary: "Postgres") -> None:
        """Become a copy of the primary, which follows it as a standby."""
        await self.run(
            *("pg_basebackup", "-D", "data", "-R", "-c", "fast", "-X", "stream", "-N"),
            *("-d", primary.superuser_url),
        )

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [word for item in self.settings.items() for word in ("-c", "=".join(item))]
        command = [*self.become, str(self.binaries / "postgres"), "-D", "data"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220  # which returns at once
                [*command, "-p", str(self.port), *options],
                cwd=self.folder,
                env=_environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await until(self.answers, 30)

    async def answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            log = (self.folder / "server.log").read_text()
            raise RuntimeError(f"PostgreSQL has ended\n{log[-1500:]}")
        try:
            connection = await asyncpg.connect(self.superuser_url, timeout=2)
        except (OSError, asyncpg.PostgresError, TimeoutError):
            return False
        await connection.close()
        return True

    async def fetch(self, query: str, url: str | None = None) -> list[Any]:
        """What the superuser reads, in the service's database unless told otherwise."""
        connection = await asyncpg.connect(url or self.url("postgres"), timeout=5)
        try:
            return [*await connection.fetch(query)]
        finally:
            await connection.close()

    async def configure(self, **settings: str | None) -> None:
        """`ALTER SYSTEM` and reload; None takes a setting back."""
        for name, value in settings.items():
            to = f"SET {name} = '{value}'" if value is not None else f"RESET {name}"
            await self.fetch(f"ALTER SYSTEM {to}", self.superuser_url)
        await self.fetch("SELECT pg_reload_conf()", self.superuser_url)

    def signal(self, number: int) -> None:
        """To all of its processes, the first one first: it would start the others anew.

        Each is the leader of a session of its own, so there is no group to send it to.
        """
        if self.process is not None:
            for stop in (signal.SIGSTOP, number):
                with suppress(ProcessLookupError):
                    os.kill(self.process.pid, stop)
                for pid in self._children():
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)

    def _children(self) -> list[int]:
        """Of PostgreSQL itself: `setpriv` has become it by exec, and is no process of its own."""
        pid = self.process.pid if self.process else 0
        with suppress(OSError):
            words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return [int(word) for word in words]
        return []

    async def kill(self) -> float:
        """`kill -9` all of it; returns when, by `time.monotonic()`."""
        self.signal(signal.SIGKILL)
        killed = time.monotonic()
        if self.process is not None:
            await asyncio.to_thread(self.process.wait)
        return killed

    async def stop(self) -> None:
        """`pg_ctl stop --mode fast`, or whatever is needed."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
            try:
                await asyncio.to_thread(self.process.wait, 10)
            except subprocess.TimeoutExpired:
                await self.kill()

    async def run(self, program: str, *words: str, stdin: bytes = b"", **environment: str) -> str:
        """What one of PostgreSQL's programs prints.

        Raises:
            RuntimeError: it failed.
        """
        process = await asyncio.create_subprocess_exec(
            *(*self.become, str(self.binaries / program), *words),
            cwd=self.folder,
            env=_environment() | environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate(stdin)
        if process.returncode:
            raise RuntimeError(f"{program}: {errors.decode()}")
        return output.decode()


def _environment() -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return mine | {"LC_ALL": "C"}


@asynccontextmanager
async def postgres(folder: Path, **settings: str) -> AsyncIterator[Postgres]:
    """A running primary with the service's tables, ended on leaving."""
    server = Postgres(folder, None, **settings)
    try:
        await server.initialize()
        await server.start()
        await server.create()
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def standby_of(
    primary: Postgres, folder: Path, port: int | None = None
) -> AsyncIterator[Postgres]:
    """A running copy that follows the primary, ended on leaving."""
    standby = Postgres(folder, port)

    async def follows() -> bool:
        return bool(await primary.fetch(STREAMING))

    try:
        await standby.follow(primary)
        await standby.start()
        await until(follows, 20)
        yield standby
    finally:
        await standby.stop()
