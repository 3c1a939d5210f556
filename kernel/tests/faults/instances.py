"""Instances of the service as the image starts them, and HAProxy in front of them."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from kernel.data.schema import head_revision
from kernel.settings import ROOT
from kernel.tests.faults.drilling import program
from kernel.tests.processes import PATIENCE, Service, end, free_port, launch

SECRET = "drill" * 8
# As the image starts it, but for where it listens and how many workers there are.
_DOCKERFILE = (ROOT / "Dockerfile").read_text()
_COMMAND = json.loads(re.findall(r"^CMD (.*)$", _DOCKERFILE, re.MULTILINE)[0])
OPTIONS = dict(zip(_COMMAND[2::2], _COMMAND[3::2], strict=True))
OPTIONS["--http"] = re.findall(r"^ENV UVICORN_HTTP=(.*)$", _DOCKERFILE, re.MULTILINE)[0]
OPTIONS["--log-config"] = str(ROOT / "deploy/logging.json")
for _name in ("--host", "--workers"):
    del OPTIONS[_name]
DRAIN_SECONDS = 3
# How often HAProxy asks `/readyz`, and as long again.
CHECKED_SECONDS = 2.0

REVISION = f'''"""peelings have a colour"""
from alembic import op

revision = "29990101T000000_next"
down_revision = "{head_revision()}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE peelings ADD COLUMN colour varchar(20) DEFAULT 'none' NOT NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE peelings DROP COLUMN colour")
'''


def next_version(checkout: Path) -> Path:
    """A copy of the checkout with a migration more, without whose column it could not serve."""
    folder = checkout.parent / "next"
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "migrations/versions/29990101T000000_next_colour.py").write_text(REVISION)
    models = folder / "features/peelings/models.py"
    before, owner, after = models.read_text().partition("    owner_id: int = Field(")
    field = '    colour: str = Field(default="green", max_length=20)\n'
    models.write_text(f"{before}{field}{owner}{after}")
    return folder


async def upgrade(checkout: Path, url: str) -> None:
    """`alembic upgrade head` of that version, as a step of the deployment."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", "upgrade", "head"),
        cwd=checkout,
        env={"APP_DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(output.decode())


class Instance:
    """One of the services behind the balancer: of whichever version, always on the same port."""

    def __init__(self, folder: Path, *options: str, **app: Any) -> None:
        self.target, self.port = "service:app", free_port()
        self.log = folder / f"{self.port}.log"
        self.options = (*(word for item in OPTIONS.items() for word in item), *options)
        self.app = {"jwt_secret": SECRET, "drain": DRAIN_SECONDS, **app}
        self.service: Service | None = None

    async def start(self, checkout: Path, *, path: str = "/livez", status: int = 200) -> Service:
        """Start it, and wait for this answer."""
        process = launch(
            *(checkout, self.log, self.target, *self.options, "--port", str(self.port)), **self.app
        )
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=15,
            trust_env=False,
        )
        self.service = Service(process, client, self.port, self.log)
        try:
            await self.service.reaches(path, PATIENCE, status)
        except BaseException as error:
            lines = self.log.read_text().splitlines()
            error.add_note("\n".join(line for line in lines if '"INFO"' not in line)[-3000:])
            raise
        return self.service

    async def stop(self) -> int:
        """Send SIGTERM, and wait for the exit status: as long as an orchestrator does."""
        if self.service is None:
            return 0
        self.service.process.terminate()
        return await asyncio.to_thread(self.service.process.wait, DRAIN_SECONDS + 10)

    async def kill(self) -> None:
        """`kill -9` the process and its workers."""
        if self.service is not None:
            await asyncio.to_thread(end, self.service.process)


async def status_within(service: Service, status: int, seconds: float) -> int:
    """That of `/readyz`, once it is this one or the time is over."""
    with suppress(TimeoutError):
        await service.reaches("/readyz", seconds, status)
        return status
    return await service.status("/readyz")


@asynccontextmanager
async def instances(
    folder: Path, number: int, *options: str, **app: Any
) -> AsyncIterator[list[Instance]]:
    """Places for so many, empty at first; whatever runs in them at the end is killed."""
    places = [Instance(folder, *options, **app) for _ in range(number)]
    try:
        yield places
    finally:
        for place in places:
            await place.kill()


@asynccontextmanager
async def balancer(folder: Path, places: list[Instance]) -> AsyncIterator[str]:
    """HAProxy with `deploy/haproxy.cfg` in front of two instances; yields its URL."""
    port = free_port()
    one, two = (f"127.0.0.1:{place.port}" for place in places)
    with (folder / "haproxy.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # which returns at once
            [program("haproxy") or "haproxy", "-db", "-f", ROOT / "deploy/haproxy.cfg"],
            env={"LISTEN": f"127.0.0.1:{port}", "SERVICE_1": one, "SERVICE_2": two},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            front = Service(process, client, port, folder / "haproxy.log")
            await front.reaches(f"http://127.0.0.1:{port}/readyz", 10)
        await asyncio.sleep(CHECKED_SECONDS)  # until it knows both
        yield f"http://127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(end, process)
