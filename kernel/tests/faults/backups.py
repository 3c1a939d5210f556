"""The drill of the recipe for backups: what docs/production.md says is what is run here."""

import asyncio
import os
import re
import shutil
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from kernel.settings import ROOT
from kernel.tests.faults.drilling import Row, drill
from kernel.tests.faults.instances import instances
from kernel.tests.faults.load import Load, sign_up
from kernel.tests.faults.postgres import Postgres, postgres
from kernel.tests.processes import checkout_in

CHAPTER = "## Backup and restore"


def recipe() -> tuple[str, str]:
    """The two scripts of the document: what makes a backup, and what restores it."""
    document = (ROOT / "docs/production.md").read_text()
    chapter = document.partition(f"\n{CHAPTER}\n")[2].partition("\n## ")[0]
    backup, restore = re.findall(r"^```sh\n(.*?)^```$", chapter, re.DOTALL | re.MULTILINE)
    return backup, restore


async def script(text: str, server: Postgres, folder: Path, **environment: str) -> None:
    """Run it as an operator would, with PostgreSQL's programs and ours in the PATH."""
    path = f"{server.binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", text),
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(output.decode())


async def rows(server: Postgres, program: str, *words: str) -> list[str]:
    """The lines of a dump in plain SQL that are about rows."""
    dump = await asyncio.to_thread(server.run, program, "--data-only", *words)
    lines = [line for line in dump.splitlines() if not re.match(r"--|\\(un)?restrict |$", line)]
    return sorted(lines)  # the tables' order is another one


@drill("D14", "a backup taken under load, restored to an empty cluster")
async def restore(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(postgres(folder / "pg"))
        checkout = stack.enter_context(checkout_in(folder / "checkout"))
        shutil.copytree(ROOT / "deploy", checkout / "deploy")
        options = {"database_url": server.service_url()}
        [place] = await stack.enter_async_context(instances(folder, 1, **options))
        service = await place.start(checkout, path="/readyz")
        callers = await sign_up(service)
        backup, restoring = recipe()
        async with Load(str(service.client.base_url), callers, rate=80) as load:
            await asyncio.sleep(2)
            before = set(load.acknowledged)
            await script(backup, server, checkout, DATABASE_URL=server.service_url())
            await asyncio.sleep(1)
        await place.kill()
        other = Postgres(folder / "other")
        stack.callback(other.stop)
        await asyncio.to_thread(other.init)
        await asyncio.to_thread(other.start)
        urls = {
            "SUPERUSER_URL": other.superuser_url("postgres"),
            "DATABASE_URL": other.service_url(),
        }
        await script(restoring, other, checkout, POSTGRES_PASSWORD="drill", **urls)
        stored = {row["title"] for row in await other.fetch("SELECT title FROM peelings")}
        shutil.copy(checkout / "julienne.dump", other.folder / "data")
        dumped = await rows(
            server, "pg_restore", "-f", "-", str(other.folder / "data/julienne.dump")
        )
        restored = await rows(other, "pg_dump", other.service_url())
        place.app["database_url"] = other.service_url()
        service = await place.start(checkout, path="/readyz")
        load.url = str(service.client.base_url)
        await load.settle(again=set(load.acknowledged))
        missing = before - stored
        return [
            Row(
                "what was acknowledged before the backup is in it",
                f"{len(missing)} of {len(before)} missing",
                holds=len(before) > 0 and not missing,
            ),
            Row(
                "the backup's rows are the restored database's",
                f"{len(dumped)} and {len(restored)} lines",
                holds=dumped == restored != [],
            ),
            await load.ledger(
                other, "the service is ready on it; writes that are sent again double nothing"
            ),
        ]
