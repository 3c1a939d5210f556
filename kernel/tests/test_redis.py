"""The rate limit of all replicas, in a real Redis: exact, and in nobody's way when that is gone."""

import asyncio
import random
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import AsyncExitStack

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kernel.identity.redis_windows import AWAY, RedisWindows
from kernel.identity.windows import SCRIPT, MemoryWindows, Rate
from kernel.settings import ROOT
from kernel.tests.processes import end, serve, until
from kernel.tests.test_rate_limit import Clock

pytestmark = [
    pytest.mark.slow,
    pytest.mark.house,  # a team's service may have other paths
]

PROGRAM = shutil.which("redis-server") or shutil.which("redis-server", path="/usr/sbin")
PASSWORD, SECRET = "s3cr3t-canary", "test" * 8
MOST = 60
BACK = "requests are counted again: Redis can be used"


class Server:
    """A Redis of the test's own, which forgets everything when it ends."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self._folder = folder

    async def start(self):
        self.launch()
        await until(self._answers, 5)

    def launch(self):
        options = {"port": self.port, "bind": "127.0.0.1", "requirepass": PASSWORD, "save": ""}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with (self._folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, *words], cwd=self._folder, stdout=log, start_new_session=True
            )

    async def _answers(self):
        async with Redis.from_url(self.url) as client:
            try:
                return await client.ping()
            except RedisError:
                return False

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        end(self.process)


@pytest.fixture(scope="module")
async def redis(tmp_path_factory):
    if PROGRAM is None:
        pytest.fail("this needs Redis: apt-get install redis-server")
    server = Server(tmp_path_factory.mktemp("redis"))
    await server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
async def replicas(database, redis):
    """Two of the service, on one database and one Redis."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(database())
        options = {"database_url": url, "jwt_secret": SECRET, "redis_url": redis.url}
        options |= {"rate_limit": f"{MOST}/hour"}
        services = [
            await stack.enter_async_context(serve(ROOT, "--no-proxy-headers", **options))
            for _ in range(2)
        ]
        await services[0].sign_up("redis")
        services[1].client.headers.update(services[0].client.headers)
        yield services


async def forget(redis):
    async with Redis.from_url(redis.url) as client:
        await client.flushall()


async def statuses(replicas, each, **headers):
    """How often each answer came, to as many requests of each replica, all at once."""
    limits = httpx.Limits(max_connections=10)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=service.client.base_url,
                    headers=headers or service.client.headers,
                    limits=limits,
                    timeout=15,
                )
            )
            for service in replicas
        ]
        requests = [client.get("/users/me") for _ in range(each) for client in clients]
        return Counter(answer.status_code for answer in await asyncio.gather(*requests))


def warnings(service):
    told = [line["message"] for line in service.lines() if line["level"] == "WARNING"]
    return [message for message in told if message in (AWAY, BACK)]


async def seconds_of(service):
    began = time.monotonic()
    status = await service.status("/users/me")
    return status, time.monotonic() - began


async def test_exactly_so_many_pass_whichever_replica_they_come_to(replicas, redis):
    for _ in range(3):
        await forget(redis)
        assert await statuses(replicas, MOST) == {200: MOST, 429: MOST}
    # A stranger at the same address is another caller, by the address.
    assert await statuses(replicas, MOST, accept="*/*") == {401: MOST, 429: MOST}


@pytest.mark.parametrize("way", ["killed", "frozen"])
async def test_without_redis_requests_pass_at_once_and_with_it_they_are_counted_again(
    replicas, redis, way
):
    await forget(redis)
    before = [len(warnings(service)) for service in replicas]
    assert (await statuses(replicas, 1))[200] == 2
    if way == "killed":
        end(redis.process)
    else:
        redis.signal(signal.SIGSTOP)
    try:
        first = [await seconds_of(service) for service in replicas]
        later = [await seconds_of(service) for service in replicas for _ in range(20)]
        counts = await statuses(replicas, MOST)
    finally:
        if way == "killed":
            await redis.start()
        else:
            redis.signal(signal.SIGCONT)
    assert {status for status, _ in first + later} == {200}
    assert counts == {200: 2 * MOST}
    # A tenth of a second, and what a busy machine takes.
    assert max(seconds for _, seconds in first) < 0.6
    assert sorted(seconds for _, seconds in later)[20] < 0.1

    async def are_back():
        return all(warnings(service)[-1] == BACK for service in replicas)

    await until(are_back, 5)
    told = [warnings(service)[count:] for service, count in zip(replicas, before, strict=True)]
    assert told == [[AWAY, BACK]] * 2
    await forget(redis)
    assert await statuses(replicas, MOST) == {200: MOST, 429: MOST}
    for service in replicas:
        assert PASSWORD not in service.log.read_text()


async def test_a_service_starts_without_its_redis(database):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with database() as url:
        options = {"database_url": url, "jwt_secret": SECRET, "rate_limit": "1/hour"}
        options |= {"redis_url": f"redis://127.0.0.1:{port}"}
        async with serve(ROOT, **options) as service:
            assert [await service.status("/users/me") for _ in range(3)] == [401] * 3
            assert warnings(service) == [AWAY]


async def test_the_script_counts_as_memory_does(redis):
    """With a clock that the test sets, for both."""
    script = SCRIPT.replace("redis.call('TIME')", "{ARGV[4], ARGV[5]}")
    chance = random.Random(7)  # noqa: S311  # the same ones each time
    clock = Clock()
    async with Redis.from_url(redis.url) as client:
        run = client.register_script(script)
        for amount, seconds in ((1, 1), (5, 1), (7, 60), (600, 60)):
            memory = MemoryWindows(Rate(amount, seconds), clock)
            for step in range(300):
                pause = chance.choice((0, 0.1, 0.5, 1.0, 1.7)) / chance.choice((1, amount))
                clock.now = round(clock.now + pause * seconds, 6)
                cost, caller = chance.choice((0, 1, 1, 1)), f"{amount}:{step % 3}"
                whole = int(clock.now)
                arguments = [amount, seconds, cost, whole, round((clock.now - whole) * 1e6)]
                may_pass, remaining, wait = await run([caller], arguments)
                quota = await memory.count(caller, cost)
                assert (bool(may_pass), remaining) == (quota.may_pass, quota.remaining), step
                assert float(wait) == pytest.approx(quota.seconds, abs=1e-3)


async def test_a_caller_leaves_nothing_behind(redis):
    await forget(redis)
    windows = RedisWindows(redis.url, Rate(5, 1), "test:rate")
    await windows.count("a", 1)
    await windows.count("b", 0)
    async with Redis.from_url(redis.url) as client:
        assert await client.keys() == [b"test:rate:a"]
        assert 1000 < await client.pttl("test:rate:a") <= 2000
    await windows.close()
