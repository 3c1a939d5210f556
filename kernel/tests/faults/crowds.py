"""Drills of more than the service, or the server behind it, has room for."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from kernel.tests.app import PATHS
from kernel.tests.faults.drilling import Row, drill, program
from kernel.tests.faults.instances import Instance, instances
from kernel.tests.faults.load import sign_up
from kernel.tests.faults.outages import scene
from kernel.tests.faults.postgres import Postgres, postgres
from kernel.tests.processes import Service, checkout_in

SCRIPT = Path(__file__).with_name("crowd.lua")
SECONDS = 10
CALLERS = 64  # few requests for each, or they would meet the limit of a caller
REFUSED = ("sorry, too many clients", "remaining connection slots")


@dataclass(frozen=True)
class Crowd:
    """What so many connections met: answers by their status, and those that never came."""

    statuses: dict[str, int]
    slowest_ms: float
    p99_ms: float
    lost: int
    seconds: float

    @property
    def goodput(self) -> float:
        """Successes for each second."""
        done = sum(count for name, count in self.statuses.items() if name in {"200", "201"})
        return done / self.seconds


async def crowd(port: int, callers: list[str], connections: int, seconds: int = SECONDS) -> Crowd:
    """Send requests by wrk: Python would be slower than what it measures."""
    process = await asyncio.create_subprocess_exec(
        *(program("wrk") or "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"),
        *("-s", str(SCRIPT), f"http://127.0.0.1:{port}"),
        env={"PEELINGS": PATHS["create_peeling"], "TOKENS": ",".join(callers)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return Crowd(**json.loads(output.splitlines()[-1]))


@drill("L3b", "256 connections at once", "wrk")
async def overload(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        at = await scene(stack, folder, "--workers", "2", callers=CALLERS)
        callers = at.callers
        usual = await crowd(at.instance.port, callers, 32)
        probing = asyncio.create_task(_probe(at.service))
        much = await crowd(at.instance.port, callers, 256)
        probing.cancel()
        livez = await probing
        after = await crowd(at.instance.port, callers, 32, 5)
        bare = {name for name in much.statuses if name not in {"200", "201", "503 Retry-After"}}
        share, later = much.goodput / usual.goodput, after.goodput / usual.goodput
        p99 = quantiles(livez, n=100)[98] * 1000
        return [
            Row(
                "each answer is a success, or a 503 with Retry-After",
                f"{much.statuses}, {much.lost} without an answer",
                holds=not bare and much.lost == 0,
            ),
            Row(
                "each within 5 s",
                f"{much.slowest_ms:.0f} ms at most, p99 {much.p99_ms:.0f} ms",
                holds=much.slowest_ms <= 5000,
            ),
            Row(
                "as many successes as at 32 connections, or 0.7 of them",
                f"{much.goodput:.0f} and {usual.goodput:.0f} a second: {share:.2f}",
                holds=share >= 0.7,
            ),
            Row("and as many at 32 connections afterwards", f"{later:.2f}", holds=later >= 0.7),
            Row("`/livez` is told", f"p99 {p99:.0f} ms, on the client's cores", holds=True),
        ]


async def _probe(service: Service) -> list[float]:
    """Seconds that `/livez` took, again and again until this is cancelled."""
    took: list[float] = []
    try:
        while True:
            began = time.monotonic()
            if await service.status("/livez") == 200:
                took.append(time.monotonic() - began)
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        return took


@drill("L8b", "two instances whose pools want more than the server has", "wrk")
async def few_slots(folder: Path) -> list[Row]:
    fitting = {"pool_size": 3, "max_overflow": 0, "read_pool_size": 3}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(postgres(folder / "pg", max_connections="20"))
        checkout = stack.enter_context(checkout_in(folder / "checkout"))
        served, callers = {}, await _callers(server, checkout, folder)
        for name, limits in (("fitting", fitting), ("default", {})):
            async with instances(folder, 2, database_url=server.service_url(), **limits) as places:
                before = _refused(server)
                served[name] = await _both(places, checkout, callers)
                refused = _refused(server) - before
        shares = [
            crowd.goodput / fit.goodput
            for crowd, fit in zip(served["default"], served["fitting"], strict=True)
        ]
        rate = refused / SECONDS
        return [
            Row(
                "each serves 0.4 of what it does with pools that fit",
                ", ".join(f"{share:.2f}" for share in shares),
                holds=min(shares) >= 0.4,
            ),
            Row("10 refused connections a second at most", f"{rate:.1f}", holds=rate <= 10),
        ]


async def _both(places: list[Instance], checkout: Path, callers: list[str]) -> list[Crowd]:
    """What both meet at the same time, the first of which has its connections when the other one
    comes."""
    crowds = []
    for place in places:
        await place.start(checkout)
    for place in places:
        crowds.append(asyncio.create_task(crowd(place.port, callers, 16)))
        await asyncio.sleep(0.5)
    return [await each for each in crowds]


async def _callers(server: Postgres, checkout: Path, folder: Path) -> list[str]:
    async with instances(folder, 1, database_url=server.service_url()) as [place]:
        return await sign_up(await place.start(checkout), CALLERS)


def _refused(server: Postgres) -> int:
    log = (server.folder / "server.log").read_text()
    return sum(log.count(words) for words in REFUSED)
