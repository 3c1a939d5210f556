"""One caller does all it can, and beside it another one's reads and writes go on: none fails.

`-rP` shows the figures of each test: what the other caller meets alone, and beside it.
"""

import asyncio
import json
import math
import sys
import time
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import asyncpg
import pytest

from kernel.testing.callers import PASSWORD
from kernel.tests.app import PATHS, account_body
from kernel.tests.latencies import assert_hardly_slower
from kernel.tests.processes import checkout_in, serve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

SECONDS = 2.0
QUIET = 0.02  # seconds
ROWS = 200_000
SECRET = "test" * 8
FILL = """
    INSERT INTO peelings (owner_id, title)
    SELECT $1, chr(97 + (n * 7 % 26)::int) || md5(n::text) FROM generate_series(1, $2::bigint) n
"""
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
numbers = count(1)


class Socket:
    """One connection, that of a caller at an address of its own."""

    def __init__(self, port, address, token=None):
        self.port, self.address, self.token = port, address, token

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self.writer.transport.abort()

    def send(self, method, path, body=b"", kind=JSON, length=None, **headers):
        """Begin a request, whose body may be longer than what is sent of it."""
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"X-Forwarded-For: {self.address}"]
        lines += [f"Content-Type: {kind}", f"Content-Length: {length or len(body)}"] if body else []
        lines += [f"Authorization: Bearer {self.token}"] if self.token else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def ask(self, *request, **options):
        """The answer's status and body."""
        self.send(*request, **options)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(size)


@pytest.fixture(scope="module")
async def service(tmp_path_factory, database):
    folder = tmp_path_factory.mktemp("one_caller") / "source"
    options = ("--http", "kernel.http.server:Protocol")
    async with database() as url:
        with checkout_in(folder):
            app = {"database_url": url, "jwt_secret": SECRET, "sign_in_failures": 1_000_000}
            async with serve(folder, *options, **app) as service:
                service.url = url
                yield service


@asynccontextmanager
async def signed_in(service, name):
    """A caller, with a connection."""
    await service.sign_up(f"{name}{next(numbers)}")
    token = service.client.headers["Authorization"].removeprefix("Bearer ")
    async with Socket(service.port, f"198.51.100.{next(numbers)}", token) as socket:
        yield socket


@pytest.fixture
async def mallory(service):
    async with signed_in(service, "mallory") as caller:
        yield caller


@pytest.fixture
async def alice(service):
    async with signed_in(service, "alice") as caller:
        yield caller


async def reads_and_writes(alice, ended):
    """The statuses and the seconds of what a caller does until then, one after the other."""
    found, path = {"write": [], "read": []}, PATHS["create_peeling"]

    async def timed(kind, *request):
        began = time.perf_counter()
        status, body = await alice.ask(*request)
        found[kind].append((status, time.perf_counter() - began))
        return json.loads(body)

    while not ended.is_set():
        peeling = await timed("write", "POST", path, b'{"title": "Soup"}')
        await timed("read", "GET", f"{path}/{peeling.get('id', 0)}")
        await asyncio.sleep(0.002)
    return found


async def beside(alice, attack=None):
    """What a caller meets beside an attack, or alone."""
    ended = asyncio.Event()
    doing = asyncio.create_task(reads_and_writes(alice, ended))
    if attack is None:
        await asyncio.sleep(SECONDS)
    else:
        await attack()
    ended.set()
    return await doing


async def check(alice, attack, times=5.0):
    """Compare what a caller meets alone and beside the attack; `times` is infinite where the attack
    needs the cores that the service needs."""

    async def measure():
        alone, crowded = await beside(alice), await beside(alice, attack)
        assert {status for found in crowded.values() for status, _ in found} <= {200, 201}
        return {
            kind: [[seconds for _, seconds in each[kind]] for each in (alone, crowded)]
            for kind in crowded
        }

    await assert_hardly_slower(measure, times, QUIET)


async def for_a_while(*doings):
    """Do each again and again; how often each status came."""
    statuses, until = [], time.monotonic() + SECONDS

    async def repeat(doing):
        while time.monotonic() < until:
            statuses.append((await doing())[0])

    await asyncio.gather(*(repeat(doing) for doing in doings))
    return statuses


@asynccontextmanager
async def sockets(like, number):
    """Further connections of the caller."""
    async with AsyncExitStack() as stack:
        new = (Socket(like.port, like.address, like.token) for _ in range(number))
        yield [await stack.enter_async_context(socket) for socket in new]


@pytest.mark.parametrize("is_keyed", [True, False])
async def test_25_stalled_bodies(service, mallory, alice, is_keyed):
    async def attack():
        async with sockets(mallory, 25) as stalled:
            for number, socket in enumerate(stalled):
                key = {"Idempotency_Key": f"{number}-{uuid.uuid4()}"} if is_keyed else {}
                socket.send("POST", PATHS["create_peeling"], b"{", length=100, **key)
            await asyncio.sleep(SECONDS)

    await check(alice, attack)


async def test_40_twins_of_one_key(service, mallory, alice):
    async def attack():
        async with sockets(mallory, 40) as twins:
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                key = {"Idempotency_Key": str(uuid.uuid4())}
                request = ("POST", PATHS["create_peeling"], b'{"title": "Twin"}')
                answers = await asyncio.gather(*(each.ask(*request, **key) for each in twins))
                assert {status for status, _ in answers} <= {201, 429}
                assert len({body for status, body in answers if status == 201}) == 1
                await asyncio.sleep(0.1)

    await check(alice, attack)


async def test_40_wrong_current_passwords(service, mallory, alice):
    change = {"password": "a new password", "current_password": "wrong wrong"}

    async def attack():
        request = ("PATCH", PATHS["update_me"], json.dumps(change).encode())
        async with sockets(mallory, 40) as guessing:
            statuses = await for_a_while(
                *(lambda each=each: each.ask(*request) for each in guessing)
            )
        assert set(statuses) <= {403, 429}

    await check(alice, attack, times=math.inf)


async def test_200_sign_ups(service, alice):
    async def attack():
        async with sockets(Socket(service.port, "203.0.113.7"), 200) as strangers:
            accounts = [
                account_body(email=f"{uuid.uuid4()}@example.com", password=PASSWORD)
                for _ in strangers
            ]
            answers = await asyncio.gather(
                *(
                    each.ask("POST", PATHS["create_user"], json.dumps(account).encode())
                    for each, account in zip(strangers, accounts, strict=True)
                )
            )
        # The last ones may wait for their hash beyond their deadline.
        assert {status for status, _ in answers} <= {201, 429, 503}

    await check(alice, attack, times=math.inf)


async def test_20_short_searches(service, mallory, alice):
    stored = await asyncpg.connect(service.url)
    _, body = await mallory.ask("POST", PATHS["create_peeling"], b'{"title": "Soup"}')
    await stored.execute(FILL, json.loads(body)["owner_id"], ROWS)
    await stored.execute("VACUUM ANALYZE peelings")
    await stored.close()
    paths = [f"{PATHS['list_peelings']}?q={q}" for q in ("zz", "q", "%25", "9z", "a1")] * 4

    async def attack():
        async with sockets(mallory, 20) as searching:
            statuses = await for_a_while(
                *(
                    lambda each=each, path=path: each.ask("GET", path)
                    for each, path in zip(searching, paths, strict=True)
                )
            )
        assert set(statuses) <= {200, 429}

    async with sockets(alice, 1) as (anew,):  # the other has waited for too long
        await check(anew, attack)
