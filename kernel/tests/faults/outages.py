"""Drills of one PostgreSQL that is killed, frozen, or takes no writes."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from kernel.tests.faults.drilling import Row, drill
from kernel.tests.faults.instances import Instance, instances, status_within
from kernel.tests.faults.load import KEYED, READ, Load, sign_up
from kernel.tests.faults.postgres import Postgres, postgres, standby_of
from kernel.tests.processes import Service, checkout_in

KILLS = 5
FROZEN_SECONDS = 15.0


class Scene(NamedTuple):
    """A server, one instance of the service on it, and the stack that ends both."""

    server: Postgres
    instance: Instance
    service: Service
    callers: list[str]

    def load(self, clients: int = 12, rate: float = 60) -> Load:
        return Load(str(self.service.client.base_url), self.callers, clients, rate)


async def scene(stack: AsyncExitStack, folder: Path, *options: str, callers: int = 4) -> Scene:
    """Everything up, and so many people signed in."""
    server = await stack.enter_async_context(postgres(folder / "pg"))
    checkout = stack.enter_context(checkout_in(folder / "checkout"))
    url = server.service_url()
    [instance] = await stack.enter_async_context(instances(folder, 1, *options, database_url=url))
    service = await instance.start(checkout, path="/readyz")
    return Scene(server, instance, service, await sign_up(service, callers))


@drill("D2", f"kill -9 of PostgreSQL under load, {KILLS} times")
async def kills(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        server, _, service, _ = at = await scene(stack, folder, "--workers", "2")
        workers, outages, first = service.workers(), [], []
        async with at.load(clients=16, rate=80) as load:
            await asyncio.sleep(3)
            for kill in range(KILLS):
                killed = time.monotonic()
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(1 + kill)
                outages.append((killed, time.monotonic()))
                await asyncio.to_thread(server.start)
                accepts = time.monotonic()
                await asyncio.sleep(5)
                first.append(load.first_success(accepts))
        await load.settle()
        during = [
            seen
            for seen in load.seen
            if any(begin <= seen.began < end for begin, end in outages) and seen.failed
        ]
        refused = [seen for seen in during if seen.outcome == 503 and seen.retry_after]
        slowest = max((seen.seconds for seen in during), default=0)
        return [
            await load.ledger(server),
            Row(
                "meanwhile each answer is a 503 with Retry-After",
                f"{len(refused)} of {len(during)}",
                holds=len(refused) == len(during) > 0,
            ),
            Row("within 2 s", f"{slowest:.2f} s at most", holds=slowest <= 2),
            Row(
                "a 2xx within 3 s after PostgreSQL accepts",
                f"{max(first):.2f} s at most",
                holds=max(first) <= 3,
            ),
            no_worker_ended(workers, service),
        ]


@drill("D5b", f"a PostgreSQL that is frozen for {FROZEN_SECONDS:.0f} s")
async def freeze(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        server, _, service, _ = at = await scene(stack, folder, "--workers", "2")
        workers, probes = service.workers(), []
        async with at.load(clients=16, rate=60) as load:
            await asyncio.sleep(2)
            server.signal(signal.SIGSTOP)
            frozen = time.monotonic()
            while time.monotonic() < frozen + FROZEN_SECONDS:
                began = time.monotonic()
                status = await service.status("/livez")
                probes.append((status, time.monotonic() - began))
                await asyncio.sleep(0.2)
            server.signal(signal.SIGCONT)
            thawed = time.monotonic()
            await asyncio.sleep(6)
        await load.settle()
        during = [seen for seen in load.seen if frozen <= seen.began < thawed and seen.failed]
        slowest = max(seen.seconds for seen in load.seen)
        livez = max(seconds for _, seconds in probes)
        others = {seen.outcome for seen in during} - {503}
        return [
            await load.ledger(server),
            Row("each failure is a 503", f"{len(during)}, {others or 'no other'}", not others),
            Row("each answer within 5 s", f"{slowest:.2f} s at most", holds=slowest <= 5),
            Row(
                "`/livez` within 150 ms",
                f"{livez * 1000:.0f} ms at most, {len(probes)} probes",
                holds=livez <= 0.15 and {status for status, _ in probes} == {200},
            ),
            load.none_failed("all is well 5 s after", since=thawed + 5),
            no_worker_ended(workers, service),
        ]


@drill("D8", "a primary that turns read-only, and comes back as a standby")
async def demote(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        server, _, service, _ = at = await scene(stack, folder)
        async with at.load(rate=60) as load:
            await asyncio.sleep(1)
            await server.configure(default_transaction_read_only="on")
            begin = time.monotonic()
            await asyncio.sleep(2)
            ready = await service.status("/readyz")
            await server.configure(default_transaction_read_only=None)
            end = time.monotonic()
            await asyncio.sleep(4)
            reads = load.none_failed(
                "reads go on while it is read-only", READ, since=begin, until=end
            )
            writes = load.failures(KEYED, since=begin, until=end)
            rows = [
                reads,
                Row(
                    "a write is a 503, nothing else",
                    f"{dict(writes)}",
                    holds=not writes.keys() - {f"{KEYED}: 503"},
                ),
                Row("`/readyz` says so", f"{ready}", holds=ready == 503),
                load.none_failed("all is well 2 s after", since=end + 2),
            ]
            standby = await stack.enter_async_context(standby_of(server, folder / "standby"))
            await asyncio.to_thread(server.shut_down)
            await asyncio.to_thread(standby.shut_down)
            standby.port = server.port
            await asyncio.to_thread(standby.start)
            ready = await status_within(service, 503, 5)
            promoted = time.monotonic()
            await standby.fetch("SELECT pg_promote()", "postgres")
            await asyncio.sleep(5)
        await load.settle()
        return [
            *rows,
            Row("`/readyz` of a service on a standby", f"{ready}", holds=ready == 503),
            Row(
                "writes go on within 3 s after it is promoted",
                f"{load.first_success(promoted, kind=KEYED):.2f} s",
                holds=load.first_success(promoted, kind=KEYED) <= 3,
            ),
            await load.ledger(standby),
        ]


def no_worker_ended(before: set[int], service: Service) -> Row:
    gone = before - service.workers()
    return Row("no worker ends", f"{len(gone)} of {len(before)}", holds=not gone)
