"""Clients at a steady rate, and a ledger of what each of their writes has become."""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import httpx

from kernel.tests.app import PATHS
from kernel.tests.faults.drilling import Row
from kernel.tests.faults.postgres import Postgres
from kernel.tests.processes import Service, until

READ, KEYED, UNKEYED = "read", "keyed write", "write"
TIMEOUT_SECONDS = 20.0
ACKNOWLEDGED = "each acknowledged write is stored, each once, and nothing else"
STORED = "SELECT title, count(*) FROM peelings GROUP BY title"


@dataclass(frozen=True)
class Seen:
    """A request: when it began, how long it took, and its status or why there is none."""

    began: float
    seconds: float
    kind: str
    outcome: int | str
    retry_after: bool = False

    @property
    def failed(self) -> bool:
        return not isinstance(self.outcome, int) or self.outcome >= 400


async def sign_up(service: Service, number: int = 4) -> list[str]:
    """Make so many accounts and sign them in; their `Authorization`."""
    callers = []
    for name in range(number):
        await service.sign_up(f"caller{name}")
        callers.append(service.client.headers["Authorization"])
    return callers


@dataclass
class Load:
    """Requests to `/peelings`: reads, writes with a key and, if asked for, writes without one.

    `rate` is that of all clients together, for each second; `writes` is their share, `unkeyed` that
    of writes without a key. A write is *acknowledged* by a 2xx. Whatever else becomes of it,
    `settle` sends the keyed ones again until they are. `callers` are several people's
    `Authorization`, since one of them alone may take half of the connections only.
    """

    url: str
    callers: list[str]
    clients: int = 12
    rate: float = 60
    writes: float = 0.4
    unkeyed: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    pending: set[str] = field(default_factory=set)
    uncertain: set[str] = field(default_factory=set)
    _ending: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client(n)) for n in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending.set()
        await asyncio.gather(*self._tasks)

    async def _client(self, number: int) -> None:
        chance, gap = random.Random(number), self.clients / self.rate  # noqa: S311  # it is no secret
        due = time.monotonic() + gap * chance.random()
        caller = number % len(self.callers)
        async with self._connection(caller) as client:
            while not await self._ends_before(due):
                due = max(due + gap, time.monotonic())
                await self._ask(client, chance.random(), f"{caller}-{uuid.uuid4()}")

    def _connection(self, caller: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            headers={
                "Authorization": self.callers[caller],
                "X-Forwarded-For": f"198.51.100.{caller}",  # by which strangers are told apart
            },
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    async def _ends_before(self, due: float) -> bool:
        try:
            await asyncio.wait_for(self._ending.wait(), max(0.001, due - time.monotonic()))
        except TimeoutError:
            return False
        return True

    async def _ask(self, client: httpx.AsyncClient, chance: float, title: str) -> None:
        if chance < self.writes:
            kind = UNKEYED if chance < self.unkeyed else KEYED
            await self._write(client, kind, title)
        else:
            await self._timed(READ, client.get(PATHS["list_peelings"], params={"limit": 5}))

    async def _write(self, client: httpx.AsyncClient, kind: str, title: str) -> int | str:
        """One attempt; the row's title is its key, too."""
        unsure = self.pending if kind == KEYED else self.uncertain
        unsure.add(title)
        key = {"Idempotency-Key": title} if kind == KEYED else {}
        outcome = await self._timed(
            kind, client.post(PATHS["create_peeling"], json={"title": title}, headers=key)
        )
        if outcome == 201:
            unsure.remove(title)
            self.acknowledged.add(title)
        return outcome

    async def _timed(self, kind: str, request: Awaitable[httpx.Response]) -> int | str:
        began, retry_after = time.monotonic(), False
        outcome: int | str
        try:
            response = await request
        except httpx.TransportError as error:
            outcome = type(error).__name__
        else:
            outcome, retry_after = response.status_code, "retry-after" in response.headers
        self.seen.append(Seen(began, time.monotonic() - began, kind, outcome, retry_after))
        return outcome

    async def settle(self, seconds: float = 30, *, again: Collection[str] = ()) -> None:
        """Send each keyed write that was not acknowledged (and these, too) until it is.

        Raises:
            TimeoutError: some are not, within the time.
        """
        for caller in range(len(self.callers)):
            async with self._connection(caller) as client:
                for title in [*self.pending, *again]:
                    if title.startswith(f"{caller}-"):
                        await until(partial(self._is_done, client, title), seconds)

    async def _is_done(self, client: httpx.AsyncClient, title: str) -> bool:
        return await self._write(client, KEYED, title) == 201

    def failures(self, *kinds: str, since: float = 0, until: float = 1e18) -> Counter[str]:
        """How often each outcome came that is no success, of requests begun in that time."""
        return Counter(
            f"{seen.kind}: {seen.outcome}"
            for seen in self.seen
            if seen.failed and since <= seen.began < until and (not kinds or seen.kind in kinds)
        )

    def first_success(self, since: float, **of: str) -> float:
        """Seconds from then to the end of the first request that succeeded."""
        ends = [
            seen.began + seen.seconds
            for seen in self.seen
            if not seen.failed and all(getattr(seen, name) == value for name, value in of.items())
        ]
        return min((end - since for end in ends if end >= since), default=float("inf"))

    async def ledger(self, server: Postgres, what: str = ACKNOWLEDGED) -> Row:
        """A row: each acknowledged write is stored, each once, and nothing else is."""
        stored = {row["title"]: row["count"] for row in await server.fetch(STORED)}
        lost = self.acknowledged - stored.keys()
        doubled = [title for title, times in stored.items() if times > 1]
        strange = stored.keys() - self.acknowledged - self.uncertain - self.pending
        return Row(
            what,
            f"{len(self.acknowledged)} acknowledged: {len(lost)} lost, {len(doubled)} doubled,"
            f" {len(strange)} strange",
            holds=not (lost or doubled or strange),
        )

    def none_failed(self, what: str, *kinds: str, since: float = 0, until: float = 1e18) -> Row:
        """A row: of so many requests in that time, none failed."""
        failed = self.failures(*kinds, since=since, until=until)
        asked = sum(
            since <= seen.began < until and (not kinds or seen.kind in kinds) for seen in self.seen
        )
        told = f", {told_counts(failed)}" if failed else ""
        return Row(
            what, f"{failed.total()} of {asked} failed{told}", holds=asked > 0 and not failed
        )


def told_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{times} of {outcome}" for outcome, times in counts.most_common())
