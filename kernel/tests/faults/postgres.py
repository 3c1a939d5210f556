"""A PostgreSQL of a drill's own, with what an operator makes in it."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from kernel.settings import ROOT
from kernel.tests.app import migrate
from kernel.tests.clusters import Cluster
from kernel.tests.processes import until

# As it comes: what is acknowledged is on the disk.
DURABLE = {"fsync": "on", "shared_buffers": "128MB"}
STREAMING = "SELECT FROM pg_stat_replication WHERE state = 'streaming'"


class Postgres(Cluster):
    """A server on a port that may be told, with what `deploy/roles.sql` makes.

    Everybody on this machine may connect as anybody: what a drill is about is not who comes in.
    """

    def __init__(self, folder: Path, port: int | None = None, **settings: str) -> None:
        super().__init__(folder, **(DURABLE | settings))
        self.port = port or self.port

    def service_url(self, database: str = "julienne") -> str:
        return f"postgresql://julienne@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def superuser_url(self, database: str = "julienne") -> str:
        return f"{self.url(database)}?sslmode=disable"

    async def create(self) -> None:
        """Make the service's role, its database and all tables, as an operator would."""
        words = ("-Xq", "-v", "ON_ERROR_STOP=1", "-v", "password=drill")
        roles = ("-f", str(ROOT / "deploy/roles.sql"))
        await asyncio.to_thread(self.run, "psql", *words, *roles, *self.where)
        await migrate(self.service_url())

    async def fetch(self, query: str, database: str = "julienne") -> list[Any]:
        """What the superuser reads."""
        connection = await asyncpg.connect(self.superuser_url(database), timeout=5)
        try:
            return [*await connection.fetch(query)]
        finally:
            await connection.close()

    async def configure(self, **settings: str | None) -> None:
        """`ALTER SYSTEM` and reload; None takes a setting back."""
        for name, value in settings.items():
            to = f"SET {name} = '{value}'" if value is not None else f"RESET {name}"
            await self.fetch(f"ALTER SYSTEM {to}", "postgres")
        await self.fetch("SELECT pg_reload_conf()", "postgres")

    def shut_down(self) -> None:
        """As `pg_ctl stop` does: its standbys have everything before it ends."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)


@asynccontextmanager
async def postgres(folder: Path, **settings: str) -> AsyncIterator[Postgres]:
    """A running primary with the service's tables, ended on leaving."""
    server = Postgres(folder, None, **settings)
    try:
        await asyncio.to_thread(server.init)
        await asyncio.to_thread(server.start)
        await server.create()
        yield server
    finally:
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def standby_of(
    primary: Postgres, folder: Path, port: int | None = None
) -> AsyncIterator[Postgres]:
    """A running copy that follows the primary, ended on leaving."""
    standby = Postgres(folder, port)

    async def follows() -> bool:
        return bool(await primary.fetch(STREAMING))

    try:
        await asyncio.to_thread(standby.clone, primary)
        await asyncio.to_thread(standby.start)
        await until(follows, 20)
        yield standby
    finally:
        await asyncio.to_thread(standby.stop)
