"""A drill, for root: a database whose disk is full. `python -m kernel.tests.faults.disk_full`

It mounts a small tmpfs for a server of its own, fills it, and looks at what the service says.
Prints a line for each thing that must hold, and ends with the number of those that do not.
"""

import asyncio
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel.tests.app import migrate
from kernel.tests.clusters import Cluster, served, sign_up, url_of

SIZE = "160m"
BODY = {"title": "x" * 200}
failures = 0


def check(what: str, holds: bool, seen: object) -> None:
    global failures  # noqa: PLW0603  # it is the exit status
    failures += not holds
    sys.stdout.write(f"{'pass' if holds else 'FAIL'}  {what}: {seen}\n")


@contextmanager
def small_disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="disk-full-"))
    folder.chmod(0o755)
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()
        folder.rmdir()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


async def main() -> None:
    with small_disk() as disk:
        server = Cluster(disk / "pg", max_wal_size="64MB", min_wal_size="32MB").init().start()
        try:
            server.sql("CREATE DATABASE app")
            await migrate(server.url("app"))
            await drill(server, disk)
        finally:
            server.stop()


async def drill(server: Cluster, disk: Path) -> None:
    async with served(url_of(server), log_level="ERROR") as client:
        await sign_up(client, "disk")

        async def statuses(count: int) -> Counter[int]:
            answers = [await client.post("/peelings", json=BODY) for _ in range(count)]
            return Counter(answer.status_code for answer in answers)

        made, ready = await statuses(10), await client.get("/readyz")
        check("with room: writes", made == {201: 10}, dict(made))
        check("with room: /readyz", ready.status_code == 200, ready.json())
        fill(disk / "fill")
        ready = await client.get("/readyz")
        check("full: /readyz", ready.status_code == 503, ready.json()["message"])
        made = await statuses(100)
        check("full: writes are done or told as 503", set(made) <= {201, 503}, dict(made))
        read = await client.get("/peelings")
        check("full: reads", read.status_code == 200, read.status_code)
        (disk / "fill").unlink()
        ready, made = await client.get("/readyz"), await statuses(10)
        check("with room again: /readyz", ready.status_code == 200, ready.status_code)
        check("with room again: writes", made == {201: 10}, dict(made))


if __name__ == "__main__":
    asyncio.run(main())
    sys.exit(failures)
