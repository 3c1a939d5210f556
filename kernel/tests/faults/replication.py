"""Drills of two servers: a primary that dies, and a standby that takes its place."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from kernel.tests.faults.drilling import Row, drill
from kernel.tests.faults.instances import instances
from kernel.tests.faults.load import KEYED, Load
from kernel.tests.faults.postgres import Postgres, postgres
from kernel.tests.processes import checkout_in, until

ROUNDS = 3
STREAMING = "SELECT FROM pg_stat_replication WHERE state = 'streaming'"


@drill("D7", f"failover to a synchronous standby, {ROUNDS} times")
async def failover(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(postgres(folder / "pg0"))
        standby = await _standby(stack, primary, folder / "pg1")
        checkout = stack.enter_context(checkout_in(folder / "checkout"))
        hosts = f"host=127.0.0.1:{primary.port}&host=127.0.0.1:{standby.port}"
        url = f"postgresql://julienne@/julienne?{hosts}&target_session_attrs=read-write&sslmode=disable"
        [place] = await stack.enter_async_context(instances(folder, 1, database_url=url))
        service = await place.start(checkout, path="/readyz")
        await service.sign_up("ada")
        resumed = []
        load = Load(str(service.client.base_url), service.client.headers, rate=50)
        async with load:
            for round_ in range(ROUNDS):
                await primary.configure(synchronous_standby_names="*")
                await asyncio.sleep(2)
                await primary.kill()
                await asyncio.sleep(3)
                await standby.fetch("SELECT pg_promote()", standby.superuser_url)
                promoted = time.monotonic()
                await standby.configure(synchronous_standby_names=None)
                await asyncio.sleep(6)
                resumed.append(load.first_success(promoted, kind=KEYED))
                port = primary.port
                primary = standby
                standby = await _standby(stack, primary, folder / f"pg{round_ + 2}", port)
        await load.settle()
        return [
            await load.ledger(primary),
            Row(
                "writes go on within 5 s after the standby is promoted, without a restart",
                ", ".join(f"{seconds:.2f} s" for seconds in resumed),
                holds=max(resumed) <= 5,
            ),
        ]


async def _standby(
    stack: AsyncExitStack, primary: Postgres, folder: Path, port: int | None = None
) -> Postgres:
    """A copy that follows the primary, where the one before it has been."""
    standby = Postgres(folder, port)
    stack.push_async_callback(standby.stop)
    await standby.follow(primary)
    await standby.start()

    async def follows() -> bool:
        return bool(await primary.fetch(STREAMING))

    await until(follows, 20)
    return standby
