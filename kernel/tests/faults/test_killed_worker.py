"""Workers killed in the middle of their work: every write that is sent again is done once."""

import asyncio
import os
import signal
import sys
import uuid
from collections import Counter
from dataclasses import dataclass, field

import asyncpg
import httpx
import pytest

from kernel.http.problems import Problem
from kernel.tests.faults.proxy import Fault, Proxy
from kernel.tests.processes import Service, checkout_in, serve, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

CLIENTS, WRITES, KILLS = 16, 1008, 5
INCREMENTERS, INCREMENTS = 4, 15
TRIES = 20
SECRET = "test" * 8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    with checkout_in(tmp_path_factory.mktemp("killed") / "source") as folder:
        yield folder


@pytest.fixture(scope="module")
async def url(database):
    async with database() as url:
        yield url


@pytest.fixture
async def stored(url):
    """A connection to the services' database, in which nothing was written yet."""
    connection = await asyncpg.connect(url)
    await connection.execute("TRUNCATE peelings, idempotency_keys")
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def service(source, url):
    async with serve(source, "--workers", "2", database_url=url, jwt_secret=SECRET) as service:
        await service.sign_up("alice")
        yield service


@dataclass
class Ledger:
    """What a client knows of its writes: those acknowledged, and what came instead of a 2xx."""

    service: Service
    acked: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    async def write(self, method: str, url: str, body: dict[str, str], **headers: str):
        """Send the request until somebody answers for good, always with the same key."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["Idempotency-Key"] = str(uuid.uuid4())
        for _ in range(TRIES):
            try:
                answer = await self.service.client.request(method, url, json=body, headers=sent)
            except httpx.TransportError:
                self.outcomes["cut"] += 1
                continue
            if answer.status_code >= 400:
                self.outcomes[str(answer.status_code)] += 1
                problem = Problem.model_validate_json(answer.content)
                assert problem.status == answer.status_code in {409, 412, 503}
                if answer.status_code in {409, 503}:
                    continue
            self.outcomes["replayed"] += "idempotent-replayed" in answer.headers
            return answer
        raise AssertionError(f"nobody answered {TRIES} times: {self.outcomes}")

    async def create(self) -> None:
        title = str(uuid.uuid4())
        answer = await self.write("POST", "/peelings", {"title": title})
        assert (answer.status_code, answer.json()["title"]) == (201, title)
        self.acked.append(title)

    async def increment(self, url: str) -> None:
        """Add one to the number in a title, as often as somebody else was faster."""
        while True:
            try:
                read = await self.service.client.get(url)
            except httpx.TransportError:
                self.outcomes["cut"] += 1
                continue
            title = str(int(read.json()["title"]) + 1)
            answer = await self.write("PATCH", url, {"title": title}, If_Match=read.headers["etag"])
            if answer.status_code == 200:
                self.acked.append(title)
                return
            assert answer.status_code == 412


async def kill_a_worker(service, ledger, due):
    """Kill whichever worker has served longest, once `due` writes are acknowledged."""

    async def may_kill():
        return len(ledger.acked) >= due and bool(service.started())

    await until(may_kill, 20)
    os.kill(service.started()[0], signal.SIGKILL)


async def together(*doings):
    async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
        for doing in doings:
            tasks.create_task(doing)


async def test_whatever_is_acknowledged_while_workers_are_killed_is_stored_once(service, stored):
    ledger = Ledger(service)

    async def client():
        for _ in range(WRITES // CLIENTS):
            await ledger.create()

    async def killer():
        for kill in range(1, KILLS + 1):
            await kill_a_worker(service, ledger, due=kill * WRITES // (KILLS + 1))

    await together(killer(), *[client() for _ in range(CLIENTS)])
    titles = [row["title"] for row in await stored.fetch("SELECT title FROM peelings")]
    assert sorted(titles) == sorted(ledger.acked)
    assert len(set(titles)) == WRITES
    keys = await stored.fetch("SELECT status FROM idempotency_keys")
    assert [key["status"] for key in keys] == [201] * WRITES
    assert ledger.outcomes["cut"] >= KILLS  # or nobody was in the way


async def test_increments_while_a_worker_is_killed_lose_none(service, stored):
    ledger = Ledger(service)
    made = await service.client.post("/peelings", json={"title": "0"})
    url = f"/peelings/{made.json()['id']}"

    async def client():
        for _ in range(INCREMENTS):
            await ledger.increment(url)

    async def killer():  # few are under way at a time: the first kill may hit an idle worker
        for kill in range(1, KILLS + 1):
            await kill_a_worker(service, ledger, due=kill * total // (KILLS + 1))
            if ledger.outcomes["cut"]:
                return

    total = INCREMENTERS * INCREMENTS
    await together(killer(), *[client() for _ in range(INCREMENTERS)])
    row = await stored.fetchrow("SELECT title, version FROM peelings")
    assert (row["title"], row["version"]) == (str(total), total + 1)
    assert sorted(map(int, ledger.acked)) == list(range(1, total + 1))
    assert ledger.outcomes["cut"] > 0


async def test_a_worker_killed_between_work_and_answer_leaves_a_replay(
    source, url, service, stored
):
    soup, key = {"title": "Soup"}, {"Idempotency-Key": "a-key"}
    async with (
        Proxy(url) as way,
        serve(source, database_url=way.url, jwt_secret=SECRET, jobs="off") as killed,
    ):
        killed.client.headers = service.client.headers
        way.arm(Fault.HOLD)
        request = asyncio.create_task(killed.client.post("/peelings", json=soup, headers=key))
        await asyncio.wait_for(way.struck.wait(), 5)
        await killed.kill()
        with pytest.raises(httpx.TransportError):
            await request
    assert await stored.fetchval("SELECT count(*) FROM peelings") == 1
    again = await service.client.post("/peelings", json=soup, headers=key)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json()["title"] == soup["title"]
    assert await stored.fetchval("SELECT count(*) FROM peelings") == 1
