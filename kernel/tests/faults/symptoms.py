"""What the runbook in docs/production.md names and no other drill or test makes."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import run

import asyncpg
import httpx

from kernel.tests.app import PATHS
from kernel.tests.clusters import served, sign_up
from kernel.tests.faults.drilling import Row, drill
from kernel.tests.faults.instances import instances, status_within
from kernel.tests.faults.outages import scene
from kernel.tests.faults.postgres import postgres

PEELINGS = PATHS["create_peeling"]
DISK_BYTES = 160 * 1024 * 1024


@drill("full", "a disk without room", "mount")
async def full_disk(folder: Path) -> list[Row]:
    """All that the server stores lies in a file system of its own, which only root can make."""
    with small_disk(folder / "disk") as disk:
        async with (
            postgres(disk / "pg", max_wal_size="64MB", min_wal_size="32MB") as server,
            served(server.service_url(), log_level="ERROR") as client,
        ):
            await sign_up(client, "disk")
            before = await statuses(client, 10), (await client.get("/readyz")).status_code
            fill(disk / "filler")
            refused = await client.get("/readyz")
            written = await statuses(client, 100)
            read = (await client.get(PEELINGS)).status_code
            (disk / "filler").unlink()
            after = await statuses(client, 10), (await client.get("/readyz")).status_code
    return [
        Row(
            "`/readyz` says so",
            f"{refused.status_code}, {refused.json()['message']}",
            holds=refused.status_code == 503,
        ),
        Row(
            "a write is done or a 503, a read is done",
            f"{dict(written)}, {read}",
            holds=written[503] > 0 and not written.keys() - {201, 503} and read == 200,
        ),
        Row(
            "all is well when there is room again, without a restart",
            f"{dict(after[0])}, {after[1]}",
            holds=before == after == ({201: 10}, 200),
        ),
    ]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    options = f"size={DISK_BYTES},mode=755"
    run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def statuses(client: httpx.AsyncClient, number: int) -> Counter[int]:
    """Those of so many writes."""
    body = {"title": "x" * 200}
    answers = [await client.post(PEELINGS, json=body) for _ in range(number)]
    return Counter(answer.status_code for answer in answers)


@drill("slots", "a server without a free connection")
async def no_slots(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        at = await scene(stack, folder)
        [late] = await stack.enter_async_context(instances(folder, 1, **at.instance.app))
        held = []
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                held.append(await asyncpg.connect(at.server.service_url()))
        service = await late.start(folder / "checkout")
        refused = await status_within(service, 503, 1)
        own = await statuses(at.service.client, 1)
        told = sum("53300" in line for line in late.log.read_text().splitlines())
        for connection in held:
            await connection.close()
        ready = await status_within(service, 200, 5)
        return [
            Row("who has no connection is not ready", f"{refused}", holds=refused == 503),
            Row("its log names SQLSTATE 53300", f"{told} lines", holds=told > 0),
            Row("who has some goes on", f"{dict(own)}", holds=own == {201: 1}),
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
