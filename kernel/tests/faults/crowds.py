"""Drills of more than the service, or the server behind it, has room for."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from kernel.tests.app import PATHS
from kernel.tests.faults.drilling import Row, drill, program
from kernel.tests.faults.instances import Instance, instances
from kernel.tests.faults.load import sign_up
from kernel.tests.faults.postgres import Postgres, postgres
from kernel.tests.processes import Service, checkout_in

PEELINGS, SLOW = PATHS["create_peeling"], "/ending/query"
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


class Work(NamedTuple):
    """What is asked for again and again."""

    method: str
    path: str

    def __str__(self) -> str:
        return " ".join(self)


async def crowd(port: int, callers: list[str], connections: int, work: Work) -> Crowd:
    """Send requests by wrk: Python would be slower than what it measures."""
    process = await asyncio.create_subprocess_exec(
        *(program("wrk") or "wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--timeout", "20s"),
        *("-s", str(SCRIPT), f"http://127.0.0.1:{port}"),
        env={"METHOD": work.method, "TARGET": work.path, "TOKENS": ",".join(callers)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return Crowd(**json.loads(output.splitlines()[-1]))


@drill("L3b", "256 connections at once", "wrk")
async def overload(folder: Path) -> list[Row]:
    """By reads, by writes, and by a query of 0.1 s, for which the pools are what there is too
    little of."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(postgres(folder / "pg"))
        checkout = stack.enter_context(checkout_in(folder / "checkout"))
        url = server.service_url()
        [place] = await stack.enter_async_context(instances(folder, 1, database_url=url))
        place.target = "kernel.tests.faults.ending:app"
        service = await place.start(checkout, path="/readyz")
        callers = await sign_up(service, CALLERS)
        rows = []
        for work in (Work("GET", "/users/me"), Work("POST", PEELINGS), Work("GET", SLOW)):
            usual = await crowd(place.port, callers, 32, work)
            probing = asyncio.create_task(_probe(service))
            much = await crowd(place.port, callers, 256, work)
            probing.cancel()
            rows += _rows(work, usual, much, await probing)
        return rows


def _rows(work: Work, usual: Crowd, much: Crowd, livez: list[float]) -> list[Row]:
    share, p99 = much.goodput / usual.goodput, quantiles(livez, n=100)[98] * 1000
    bare = much.statuses.keys() - {"200", "201", "503 Retry-After"}
    return [
        Row(
            f"{work}: as many successes as at 32 connections, or 0.7 of them",
            f"{much.goodput:.0f} and {usual.goodput:.0f} a second: {share:.2f}",
            holds=share >= 0.7,
        ),
        Row(
            f"{work}: each other answer is a 503 with Retry-After, and each within 5 s",
            f"{much.statuses}, {much.slowest_ms / 1000:.2f} s at most; `/livez` p99 {p99:.0f} ms",
            holds=not bare and much.lost == 0 and much.slowest_ms <= 5000,
        ),
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
        crowds.append(asyncio.create_task(crowd(place.port, callers, 16, Work("POST", PEELINGS))))
        await asyncio.sleep(0.5)
    return [await each for each in crowds]


async def _callers(server: Postgres, checkout: Path, folder: Path) -> list[str]:
    async with instances(folder, 1, database_url=server.service_url()) as [place]:
        return await sign_up(await place.start(checkout), CALLERS)


def _refused(server: Postgres) -> int:
    log = (server.folder / "server.log").read_text()
    return sum(log.count(words) for words in REFUSED)
