"""What the runbook in docs/production.md names and no other drill or test makes."""

import asyncio
import os
import random
import shutil
import string
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import run

import asyncpg

from kernel.tests.app import PATHS
from kernel.tests.faults.drilling import Row, drill
from kernel.tests.faults.instances import instances, status_within
from kernel.tests.faults.outages import Scene, scene
from kernel.tests.processes import Service

PEELINGS = PATHS["create_peeling"]
DISK_BYTES = 2 * 1024 * 1024


@drill("full", "a disk without room", "mount")
async def full_disk(folder: Path) -> list[Row]:
    """The rows of one table lie in a file system of their own, for which this has to be root."""
    async with AsyncExitStack() as stack:
        at = await scene(stack, folder)
        small = at.server.folder / "small"
        small.mkdir()
        stack.enter_context(_file_system(small))
        stack.push_async_callback(at.server.stop)
        owner = (at.server.folder / "data").stat()
        os.chown(small, owner.st_uid, owner.st_gid)
        small.chmod(0o700)
        await at.server.fetch(f"CREATE TABLESPACE small LOCATION '{small}'")
        await at.server.fetch("ALTER TABLE peelings SET TABLESPACE small")
        (small / "filler").write_bytes(bytes(shutil.disk_usage(small).free))
        written = [await _write(at.service) for _ in range(20)]
        read = await at.service.status(PEELINGS)
        told = _causes(at, "53100")
        (small / "filler").unlink()
        again = await _write(at.service)
        return [
            Row(
                "a write is a 503, a read a 200",
                f"{dict(Counter(written))}, {read}",
                holds=503 in written and {*written} <= {201, 503} and read == 200,
            ),
            Row("the log names SQLSTATE 53100", f"{told} lines", holds=told > 0),
            Row("a write when there is room again", f"{again}", holds=again == 201),
        ]


@contextmanager
def _file_system(folder: Path) -> Iterator[None]:
    run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        run(["umount", "--lazy", folder], check=True)


async def _write(service: Service) -> int:
    """The status of a write whose row takes a quarter of a page."""
    text = "".join(random.choices(string.ascii_letters, k=1900))  # noqa: S311  # it is no secret
    answer = await service.client.post(PEELINGS, json={"title": "x", "description": text})
    return answer.status_code


def _causes(at: Scene, code: str) -> int:
    return sum(code in line for line in at.instance.log.read_text().splitlines())


@drill("slots", "a server without a free connection")
async def no_slots(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        at = await scene(stack, folder)
        [late] = await stack.enter_async_context(instances(folder, 1, **at.instance.app))
        held = []
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                held.append(await asyncpg.connect(at.server.url()))
        service = await late.start(folder / "checkout")
        refused = await status_within(service, 503, 1)
        own = await _write(at.service)
        told = sum("53300" in line for line in late.log.read_text().splitlines())
        for connection in held:
            await connection.close()
        ready = await status_within(service, 200, 5)
        return [
            Row("who has no connection is not ready", f"{refused}", holds=refused == 503),
            Row("its log names SQLSTATE 53300", f"{told} lines", holds=told > 0),
            Row("who has some goes on", f"{own}", holds=own == 201),
            Row("it is ready when some are free", f"{ready}", holds=ready == 200),
        ]


@drill("change", "a table whose columns change their type again and again")
async def change(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        at = await scene(stack, folder)
        async with at.load(rate=80) as load:
            for number in range(100):
                kind = "text" if number % 2 else "varchar(200)"
                await at.server.fetch(f"ALTER TABLE peelings ALTER COLUMN title TYPE {kind}")
                await asyncio.sleep(0.05)
        failures = load.failures()
        await load.settle()
        return [
            Row(
                "a request is done, or is a 503 that may be sent again",
                f"{dict(failures) or 'none failed'} of {len(load.seen)}",
                holds=not {name for name in failures if not name.endswith(": 503")},
            ),
            await load.ledger(at.server),
        ]
