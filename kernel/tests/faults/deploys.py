"""Drills of deployments: two instances behind HAProxy, with `deploy/haproxy.cfg`."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from kernel.tests.faults.drilling import Row, drill
from kernel.tests.faults.instances import (
    CHECKED_SECONDS,
    Instance,
    balancer,
    instances,
    next_version,
    status_within,
    upgrade,
)
from kernel.tests.faults.load import KEYED, READ, UNKEYED, Load, sign_up
from kernel.tests.faults.postgres import Postgres, postgres
from kernel.tests.processes import checkout_in

ROUNDS = 5


class Fleet(NamedTuple):
    """A database, this version of the service, its instances, and the load at the balancer."""

    server: Postgres
    checkout: Path
    places: list[Instance]
    load: Load

    async def roll(self, checkout: Path) -> None:
        """Replace the instances one after the other by that version."""
        for place in self.places:
            await place.stop()
            await place.start(checkout, path="/readyz")
            await asyncio.sleep(CHECKED_SECONDS)


async def fleet(
    stack: AsyncExitStack, folder: Path, rate: float = 60, unkeyed: float = 0.0
) -> Fleet:
    """Two instances that serve, and clients that are at it."""
    server = await stack.enter_async_context(postgres(folder / "pg"))
    checkout = stack.enter_context(checkout_in(folder / "checkout"))
    places = await stack.enter_async_context(
        instances(folder, 2, database_url=server.service_url())
    )
    one, _ = await asyncio.gather(*(place.start(checkout, path="/readyz") for place in places))
    callers = await sign_up(one)
    url = await stack.enter_async_context(balancer(folder, places))
    return Fleet(
        server, checkout, places, Load(url, callers, rate=rate, writes=0.5, unkeyed=unkeyed)
    )


@drill("M3b", "a migration while the version before it serves", "haproxy")
async def migration(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        at = await fleet(stack, folder)
        following = next_version(at.checkout)
        foreign = await _foreign_database(at.server)
        [elsewhere] = await stack.enter_async_context(instances(folder, 1, database_url=foreign))
        [ahead] = await stack.enter_async_context(
            instances(folder, 1, database_url=at.server.service_url())
        )
        async with at.load as load:
            await asyncio.sleep(1)
            new = await ahead.start(following)
            early = await new.status("/readyz")
            await upgrade(following, at.server.service_url())
            late = await status_within(new, 200, 3)
            await asyncio.sleep(3)
            await at.roll(at.checkout)
            strange = await elsewhere.start(at.checkout)
            statuses = {await strange.status("/readyz") for _ in range(5)}
        await load.settle()
        return [
            load.none_failed("no request fails: migration, old version started anew"),
            Row("the new version is not ready before it", f"{early}", holds=early == 503),
            Row("and is after it", f"{late}", holds=late == 200),
            Row("on a foreign database it never is", f"{statuses}", holds=statuses == {503}),
            await load.ledger(at.server),
        ]


async def _foreign_database(server: Postgres) -> str:
    """One that another service has migrated."""
    await server.fetch("CREATE DATABASE foreign_one OWNER julienne", "postgres")
    await server.fetch("CREATE TABLE alembic_version (version_num varchar(32))", "foreign_one")
    await server.fetch("INSERT INTO alembic_version VALUES ('theirs')", "foreign_one")
    await server.fetch("GRANT SELECT ON alembic_version TO julienne", "foreign_one")
    return server.service_url("foreign_one")


@drill("deploy", "a release with a migration, and its rollback: what production.md says", "haproxy")
async def rehearsal(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        at = await fleet(stack, folder, rate=30)
        following = next_version(at.checkout)
        async with at.load as load:
            await asyncio.sleep(1)
            await upgrade(following, at.server.service_url())
            await at.roll(following)
            green = await at.server.fetch("SELECT count(*) FROM peelings WHERE colour = 'green'")
            rolled = time.monotonic()
            await at.roll(at.checkout)
            await asyncio.sleep(1)
        return [
            load.none_failed("no request fails: migration and roll-out", until=rolled),
            load.none_failed("nor during the rollback of the code", since=rolled),
            Row("the new version has served", f"{green[0][0]} rows", holds=green[0][0] > 0),
            await load.ledger(at.server),
        ]


@drill("P3", f"{ROUNDS} roll-outs, then kill -9 of an instance, {ROUNDS} times", "haproxy")
async def rolls_and_kills(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        at = await fleet(stack, folder, unkeyed=0.15)
        async with at.load as load:
            await asyncio.sleep(1)
            for _ in range(ROUNDS):
                await at.roll(at.checkout)
            rolled = time.monotonic()
            for kill in range(ROUNDS):
                place = at.places[kill % 2]
                await place.kill()
                await asyncio.sleep(1)
                await place.start(at.checkout, path="/readyz")
                await asyncio.sleep(CHECKED_SECONDS)
        unkeyed = load.failures(UNKEYED, since=rolled)
        await load.settle()
        return [
            load.none_failed(f"no request fails during {ROUNDS} roll-outs", until=rolled),
            load.none_failed(
                f"no read or keyed write during {ROUNDS} kills", READ, KEYED, since=rolled
            ),
            Row("a write without a key may fail", f"{dict(unkeyed) or 'none did'}", holds=True),
            await load.ledger(at.server),
        ]
