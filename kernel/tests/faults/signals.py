"""Drills of signals: what clients see while workers end, bare and behind HAProxy."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from kernel.tests.faults.deploys import fleet
from kernel.tests.faults.drilling import Row, drill
from kernel.tests.faults.outages import Scene, scene
from kernel.tests.processes import Service, until

SIGNALS, RESTARTS = 6, 5
RATE = 150.0


class Clients:
    """Requests at a steady rate: each on a connection of its own, or on kept ones."""

    def __init__(self, port: int, token: str, *, keep: bool, rate: float = RATE) -> None:
        self.port, self.keep, self.rate = port, keep, rate
        self.request = f"GET /users/me HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
        self.seen: Counter[str] = Counter()
        self.is_over = False

    async def __aenter__(self) -> Self:
        self.tasks = [asyncio.create_task(self._client()) for _ in range(12)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_over = True
        await asyncio.gather(*self.tasks)

    @property
    def failed(self) -> dict[str, int]:
        return {what: count for what, count in self.seen.items() if what != "200"}

    @property
    def told(self) -> str:
        which = f": {self.failed}" if self.failed else ""
        return f"{sum(self.failed.values())} of {self.seen.total()} failed{which}"

    async def _client(self) -> None:
        writer: asyncio.StreamWriter | None = None
        while not self.is_over:
            began = time.monotonic()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    kind = "new"
                outcome, is_kept = await self._ask(reader, writer)
            except (OSError, asyncio.IncompleteReadError) as error:
                outcome, is_kept = f"{kind}: {type(error).__name__}", False
            kind = "kept"
            self.seen[outcome] += 1
            if writer and not is_kept:
                writer.close()
                writer = None
            pause = 12 / self.rate * random.uniform(0.5, 1.5)  # noqa: S311  # not all at once
            await asyncio.sleep(max(0.0, began + pause - time.monotonic()))
        if writer:
            writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, bool]:
        close = "" if self.keep else "Connection: close\r\n"
        writer.write(f"{self.request}{close}\r\n".encode())
        await writer.drain()
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
        return head.split()[1].decode(), self.keep and b"connection: close" not in head


async def beside(
    at: Scene, doing: Callable[[Service], Awaitable[None]], what: str, number: int
) -> list[Row]:
    """Rows of what clients see: those with a connection for each request, and with kept ones."""
    new, kept = (
        Clients(at.instance.port, caller, keep=keep, rate=RATE / 2)
        for caller, keep in zip(at.callers[:2], (False, True), strict=True)
    )
    async with new, kept:
        began = time.monotonic()
        for _ in range(number):
            await doing(at.service)
        took = (time.monotonic() - began) / number
    return [
        Row(
            f"{what}, {number} times, {kind}: none fails",
            f"{clients.told}{each}",
            not clients.failed,
        )
        for kind, clients, each in (
            ("new connections", new, f", {took:.0f} s each"),
            ("kept ones", kept, ""),
        )
    ]


@drill("P1b", "SIGTERM under clients, bare and behind HAProxy", "haproxy")
async def terminate(folder: Path) -> list[Row]:
    return [
        *await _workers(folder / "workers"),
        await _alone(folder / "alone"),
        *await _behind_a_balancer(folder / "fleet"),
    ]


async def _workers(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        at = await scene(stack, folder, "--workers", "2")

        async def end_one(service: Service) -> None:
            oldest = service.started()[0]

            async def is_replaced() -> bool:
                return oldest not in service.workers() and len(service.started()) == 2

            os.kill(oldest, signal.SIGTERM)
            await until(is_replaced, 30)

        return await beside(at, end_one, "bare, SIGTERM to one of two workers", SIGNALS)


async def _alone(folder: Path) -> Row:
    """Who has a connection is told, and never reset; who has none is refused at last."""
    async with AsyncExitStack() as stack:
        at = await scene(stack, folder)
        async with Clients(at.instance.port, at.callers[0], keep=True) as clients:
            await asyncio.sleep(1)
            began = time.monotonic()
            await at.instance.stop()
            took = time.monotonic() - began
            clients.is_over = True
    lost = {what: count for what, count in clients.failed.items() if "Refused" not in what}
    told = f"{lost or 'none'} of {clients.seen.total()}, ended after {took:.1f} s"
    return Row("bare and alone, SIGTERM: no kept connection is reset", told, holds=not lost)


async def _behind_a_balancer(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        at = await fleet(stack, folder)
        port = int(at.load.url.rpartition(":")[2])
        new, kept = (
            Clients(port, caller, keep=keep, rate=RATE / 2)
            for caller, keep in zip(at.load.callers[:2], (False, True), strict=True)
        )
        async with new, kept:
            for _ in range(SIGNALS // 2):
                await at.roll(at.checkout)
        what = f"behind HAProxy, SIGTERM to one of two instances, {SIGNALS} times"
        return [
            Row(f"{what}, new connections: none fails", new.told, not new.failed),
            Row(f"{what}, kept ones: none fails", kept.told, not kept.failed),
        ]


@drill("P2", f"SIGHUP to the parent of two workers, {RESTARTS} times")
async def restart(folder: Path) -> list[Row]:
    """Each worker is replaced, once its successor serves."""
    async with AsyncExitStack() as stack:
        at = await scene(stack, folder, "--workers", "2")

        async def replace_all(service: Service) -> None:
            old = service.workers()

            async def are_replaced() -> bool:
                return not old & service.workers() and len(service.started()) == 2

            service.process.send_signal(signal.SIGHUP)
            await until(are_replaced, 60)

        return await beside(at, replace_all, "SIGHUP", RESTARTS)
