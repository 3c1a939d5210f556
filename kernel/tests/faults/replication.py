"""Drills of two servers: a primary that dies, and a standby that takes its place."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from kernel.tests.faults.drilling import Row, drill
from kernel.tests.faults.instances import instances
from kernel.tests.faults.load import KEYED, Load, sign_up
from kernel.tests.faults.postgres import postgres, standby_of
from kernel.tests.processes import checkout_in

ROUNDS = 3


@drill("D7", f"failover to a synchronous standby, {ROUNDS} times")
async def failover(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(postgres(folder / "pg0"))
        standby = await stack.enter_async_context(standby_of(primary, folder / "pg1"))
        checkout = stack.enter_context(checkout_in(folder / "checkout"))
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        options = "target_session_attrs=read-write&sslmode=disable"
        url = f"postgresql://julienne@{hosts}/julienne?{options}"
        [place] = await stack.enter_async_context(instances(folder, 1, database_url=url))
        service = await place.start(checkout, path="/readyz")
        resumed, callers = [], await sign_up(service)
        async with Load(str(service.client.base_url), callers, rate=50) as load:
            for round_ in range(ROUNDS):
                await primary.configure(synchronous_standby_names="*")
                await asyncio.sleep(2)
                await asyncio.to_thread(primary.kill)
                await asyncio.sleep(3)
                promoted = time.monotonic()
                await standby.fetch("SELECT pg_promote()", "postgres")
                await standby.configure(synchronous_standby_names=None)
                await asyncio.sleep(6)
                resumed.append(load.first_success(promoted, kind=KEYED))
                port = primary.port
                primary = standby
                standby = await stack.enter_async_context(
                    standby_of(primary, folder / f"pg{round_ + 2}", port)
                )
        await load.settle()
        return [
            await load.ledger(primary),
            Row(
                "writes go on within 5 s after the standby is promoted, without a restart",
                ", ".join(f"{seconds:.2f} s" for seconds in resumed),
                holds=max(resumed) <= 5,
            ),
        ]
