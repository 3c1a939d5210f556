import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import pytest
from anyio import to_thread

from features.auth.handlers.access import TokenSigner
from kernel.settings import ROOT
from kernel.tests.app import NAME
from kernel.tests.processes import (
    PATIENCE,
    Forwarder,
    checkout_in,
    end,
    launch,
    processes_in,
    serve,
    until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

SECRET = "test" * 8
CANARY = "s3cr3t-canary"
# One process ends by uvicorn's repeating the signal to itself; a parent of workers returns.
ENDED = {0, -signal.SIGTERM}
BACKENDS = f"""
    FROM pg_stat_activity
    WHERE application_name LIKE '{NAME} %' AND datname = current_database()
"""
WAITS = "wait_event_type = 'Lock'"
MEMBERS = {"time", "level", "logger", "message", "request_id"}


@pytest.fixture
def checkout(tmp_path):
    """A bare checkout: no server was ever started in it."""
    with checkout_in(tmp_path / "bare") as folder:
        yield folder


@pytest.fixture(scope="module")
def used_checkout(tmp_path_factory):
    """A checkout whose database tests share."""
    with checkout_in(tmp_path_factory.mktemp("process") / "used") as folder:
        yield folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkout for services whose database is elsewhere."""
    with checkout_in(tmp_path_factory.mktemp("process") / "source") as folder:
        yield folder


@pytest.fixture(scope="module")
async def served(source, database):
    """A service with one connection for writes and one for reads, and a connection of our own."""
    # Whoever waits for a lock gives up later than whoever waits for a connection.
    limits = {"pool_size": 1, "max_overflow": 0, "read_pool_size": 1, "lock_timeout": 3}
    async with (
        database() as url,
        connected(url) as sql,
        serve(source, database_url=url, jwt_secret=SECRET, **limits) as service,
    ):
        yield service, sql


@asynccontextmanager
async def connected(url):
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def both(one, other):
    """Enter two contexts at the same time."""
    async with AsyncExitStack() as stack:
        entering = [stack.enter_async_context(context) for context in (one, other)]
        yield await asyncio.gather(*entering)


@asynccontextmanager
async def unreachable_database(url):
    """A way to the database that is closed at first."""
    folder = parse_qs(urlsplit(url).query)["host"][0]
    async with Forwarder(f"{folder}/.s.PGSQL.5432") as way:
        yield way, f"postgresql://app@127.0.0.1:{way.port}{urlsplit(url).path}"


async def nothing_lives_in(folder):
    async def is_deserted():
        return not processes_in(folder)

    try:
        await until(is_deserted, 3)
    except TimeoutError:
        return False
    return True


async def new_peeling(service):
    made = await service.client.post("/peelings", json={"title": "Soup"})
    return f"/peelings/{made.json()['id']}"


async def rename(service, name):
    """Write something that every service has, and read it again."""
    changed = await service.client.patch("/users/me", json={"full_name": name})
    read = await service.client.get("/users/me")
    return changed.status_code == 200 and read.json()["full_name"] == name


async def test_a_bare_checkout_serves_at_once_and_leaves_nothing_running(checkout):
    async with serve(checkout) as service:
        await service.sign_up("alice")
        assert await rename(service, "Alicia")
        assert await service.status("/readyz") == 200
        assert await service.stop() in ENDED
        assert await nothing_lives_in(checkout)


@pytest.fixture
def not_under_nohup():
    """What ignores SIGHUP has children that ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("not_under_nohup")
async def test_a_killed_service_loses_nothing_and_two_new_ones_share_its_server(used_checkout):
    async with serve(used_checkout) as killed:
        await killed.sign_up("killed")
        assert await rename(killed, "Soup")
        await killed.kill()
    async with both(serve(used_checkout), serve(used_checkout)) as (first, second):
        # Even the token lives on.
        first.client.headers = second.client.headers = killed.client.headers
        assert (await first.client.get("/users/me")).json()["full_name"] == "Soup"
        assert await first.stop() in ENDED
        assert await rename(second, "Stew")
        assert await second.status("/readyz") == 200
        second.process.send_signal(signal.SIGHUP)  # as a terminal does that is closed
        assert await to_thread.run_sync(second.process.wait, 15) in ENDED
    assert await nothing_lives_in(used_checkout)


async def test_two_workers_share_the_database_of_a_checkout_under_a_long_path(tmp_path):
    with checkout_in(tmp_path / ("long" * 16) / ("path" * 16)) as checkout:
        async with serve(checkout, "--workers", "2") as service:
            await service.sign_up("alice")
            for number in range(10):
                assert await rename(service, f"Alice {number}")
            assert await service.stop() in ENDED
            assert await nothing_lives_in(checkout)


async def test_a_changed_file_brings_a_new_worker_on_the_same_database(used_checkout):
    async with serve(used_checkout, "--reload") as service:
        await service.sign_up("reload")
        old = service.workers()
        (used_checkout / "service.py").touch()

        async def replaced():
            return service.workers() - old != set()

        await until(replaced, 10)
        await service.reaches("/users/me")
        assert await service.stop() in ENDED
    assert await nothing_lives_in(used_checkout)


@pytest.mark.skipif(os.geteuid() != 0, reason="then every test here runs as an ordinary user")
async def test_the_service_runs_as_an_ordinary_user():
    nobody = 65534
    # Not in tmp_path, which is closed to others.
    with (
        tempfile.TemporaryDirectory(prefix="process-") as home,
        checkout_in(Path(home, "checkout")) as checkout,
    ):
        give(Path(home), nobody)
        python = next((each for each in pythons() if works_for(nobody, each)), None)
        if python is None:
            pytest.skip("an ordinary user reaches no Python of this version with our packages")
        async with serve(checkout, python=python, user=nobody) as service:
            await service.sign_up("alice")
            assert await service.status("/readyz") == 200
            assert await service.stop() in ENDED
        assert await nothing_lives_in(checkout)


def give(folder, user):
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


def pythons():
    """Our interpreter, which may lie in somebody's home, and the system's of the same version."""
    return sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"


def works_for(user, python):
    try:
        asked = subprocess.run(
            [python, "-c", "import uvicorn, asyncpg.protocol.protocol"],
            env={"PYTHONPATH": sysconfig.get_path("purelib")},
            cwd="/",
            capture_output=True,
            user=user,
            group=user,
            extra_groups=[],
            check=False,
        )
    except OSError:
        return False
    return asked.returncode == 0


async def test_a_service_without_its_database_says_so_and_recovers_by_itself(source, database):
    async with database() as url, unreachable_database(url) as (way, closed_url):
        options = {"database_url": closed_url, "jwt_secret": SECRET}
        async with serve(source, "--workers", "2", **options) as service:
            token = TokenSigner(NAME, [SECRET], 900).issue(1, uuid4())
            service.client.headers["Authorization"] = f"Bearer {token}"
            account = {"email": "a@example.com", "full_name": "a", "password": "correct horse"}
            for method, path, body in (
                ("GET", "/readyz", None),
                ("GET", "/peelings", None),
                ("POST", "/peelings", {"title": "Soup"}),
                ("POST", "/users", account),
            ):
                answer, seconds = await timed(service.client.request(method, path, json=body))
                assert seconds < 2
                assert 1 <= int(answer.headers["retry-after"]) <= 5
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json() == {
                    "error": "service_unavailable",
                    "message": "the database cannot be reached",
                    "status": answer.status_code,
                    "title": "Service Unavailable",
                    "detail": "the database cannot be reached",
                    "reason": "unreachable",
                    "request_id": answer.headers["x-request-id"],
                }
                assert answer.status_code == 503
            assert await service.status("/livez") == 200

            before = service.workers()
            os.kill(min(before), signal.SIGKILL)

            async def replaced():
                return len(service.workers()) == 2 and service.workers() != before

            await until(replaced, 10)
            await service.reaches("/readyz", status=503)

            await way.open()
            for _ in range(10):  # which worker answers is left to chance
                await service.reaches("/readyz", seconds=5)
            await service.sign_up("alice")
            assert {await service.status("/peelings") for _ in range(10)} == {200}
            assert await service.stop() in ENDED


async def test_no_request_fails_for_connections_that_were_lost_between_requests(served):
    service, sql = served
    await service.sign_up("lost-between")
    for n in range(20):
        lost = await sql.fetch(f"SELECT pg_terminate_backend(pid) {BACKENDS}")
        assert len(lost) >= 2
        made = await service.client.post("/peelings", json={"title": f"peeling {n}"})
        assert made.status_code == 201
        assert await service.status(f"/peelings/{made.json()['id']}") == 200
        assert await service.status("/readyz") == 200


async def test_a_connection_lost_during_a_query_is_no_crash(served):
    service, sql = served
    await service.sign_up("lost-during")
    path = await new_peeling(service)
    for n in range(5):
        async with sql.transaction():
            await sql.execute("SELECT FROM peelings FOR UPDATE")
            work = asyncio.create_task(service.client.patch(path, json={"title": f"t{n}"}))
            await someone_waits(sql)
            await sql.fetch(f"SELECT pg_terminate_backend(pid) {BACKENDS} AND {WAITS}")
        status = (await work).status_code
        title = (await service.client.get(path)).json()["title"]
        assert (status, title == f"t{n}") in {(200, True), (503, False)}


async def someone_waits(sql):
    """Until a query of the service waits for a lock of ours."""

    async def waits():
        return bool(await sql.fetchval(f"SELECT count(*) {BACKENDS} AND {WAITS}"))

    await until(waits, 5)


async def timed(request):
    started = time.monotonic()
    answer = await request
    return answer, time.monotonic() - started


async def crowd(served, lock, holder, victim):
    """While a lock of ours keeps `holder` and its pool's one connection, 20 victims come.

    Returns the holder's answer, and the victims' and the probes' with the seconds they took.
    """
    service, sql = served
    async with sql.transaction():
        await sql.execute(lock)
        holder = asyncio.create_task(holder)
        await someone_waits(sql)
        victims = [asyncio.create_task(timed(victim())) for _ in range(20)]
        probes = [
            await timed(service.client.get(path))
            for path in ("/livez", "/readyz")
            for _ in range(5)
        ]
        refused = await asyncio.gather(*victims)
    return await holder, refused, probes


def assert_refused_soon(refused, probes):
    assert {answer.status_code for answer, _ in refused} == {503}
    assert all(1 <= int(answer.headers["retry-after"]) <= 5 for answer, _ in refused)
    assert max(seconds for _, seconds in refused) < 1.5
    assert {answer.status_code for answer, _ in probes} == {200}
    assert max(seconds for _, seconds in probes) < 0.5


async def test_writes_that_find_no_free_connection_are_refused_soon(served):
    client = served[0].client
    await served[0].sign_up("crowd-of-writers")
    path = await new_peeling(served[0])
    held, refused, probes = await crowd(
        served,
        "SELECT FROM peelings FOR UPDATE",
        client.patch(path, json={"title": "Stew"}),
        lambda: client.post("/peelings", json={"title": "Salad"}),
    )
    assert_refused_soon(refused, probes)
    assert held.status_code == 200
    assert (await client.post("/peelings", json={"title": "Salad"})).status_code == 201


async def test_reads_that_find_no_free_connection_are_refused_soon(served):
    client = served[0].client
    await served[0].sign_up("crowd-of-readers")
    path = await new_peeling(served[0])
    held, refused, probes = await crowd(
        served, "LOCK TABLE peelings", client.get(path), lambda: client.get("/peelings")
    )
    assert_refused_soon(refused, probes)
    assert held.status_code == 200
    assert (await client.get("/peelings")).status_code == 200


async def refuse(source, log, *options, **app):
    """The exit status, the output's lines and the seconds of CPU of a start that has to fail."""
    before = cpu_seconds()
    process = launch(source, log, *options, "--port", "0", **app)
    try:
        status = await to_thread.run_sync(process.wait, PATIENCE)
    finally:
        end(process)
    return status, log.read_text().splitlines(), cpu_seconds() - before


def cpu_seconds():
    """What children have used. Unlike the clock, it does not count who else uses the machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    "mistakes",
    [
        {
            "database_url": f"nonsense-{CANARY}",
            "read_database_url": f"mysql://root:{CANARY}@127.0.0.1/{CANARY}",
            "jwt_secret": CANARY,
            "env": "production",
            "log_level": "loud",
            "pool_size": "many",
            "max_body_bytes": -1,
        },
        {
            "database_url": f"postgresql://postgres:{CANARY}@127.0.0.1",
            "read_database_url": f"postgresql://postgres:{CANARY}@127.0.0.1:{CANARY}/x",
            "pool_size": 0,
        },
    ],
)
async def test_a_bad_configuration_is_refused_with_a_line_for_each_mistake(
    source, tmp_path, mistakes
):
    status, lines, seconds = await refuse(source, tmp_path / "log", **mistakes)
    assert status > 0
    assert seconds < 3
    assert sorted(line.split(":")[0] for line in lines) == sorted(
        f"APP_{name.upper()}" for name in mistakes
    )
    for value in (CANARY, "production", "loud", "many"):
        assert value not in "\n".join(lines)


async def test_production_starts_with_neither_a_made_secret_nor_an_embedded_database(
    source, tmp_path
):
    status, lines, seconds = await refuse(source, tmp_path / "log", env="prod")
    assert status > 0
    assert seconds < 3
    assert sorted(line.split()[0].rstrip(":") for line in lines) == [
        "APP_DATABASE_URL",
        "APP_JWT_SECRET",
    ]
    assert not (source / ".postgres").exists()


async def test_a_bad_configuration_ends_the_parent_of_workers_too(source, tmp_path):
    # How long a parent waits before it notices a worker's end is uvicorn's option: 5 s by default.
    options = ("--workers", "2", "--timeout-worker-healthcheck", "1")
    _, lines, _ = await refuse(source, tmp_path / "log", *options, jwt_secret=CANARY)
    assert any(line.startswith("APP_JWT_SECRET: ") for line in lines)
    assert CANARY not in "\n".join(lines)


def send(port, request):
    """The answer to bytes on a connection of their own."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


async def test_every_line_of_output_is_json(served):
    service, _ = served
    assert await service.status("/nowhere%E2%80%A8%1B%5B31m%0A") == 400
    assert (await service.client.post("/users", json={})).status_code == 422
    send(service.port, b"GET @ / HTTP/1.1\r\n\r\n")
    lines = service.lines()
    assert all(line.keys() >= MEMBERS for line in lines)
    said = {line["message"] for line in lines}
    assert said >= {"Application startup complete.", "Invalid HTTP request received.", "request"}
    access = [line for line in lines if line["message"] == "request"]
    assert {400, 422} <= {line["status"] for line in access}
    assert all(line["request_id"] for line in access)


async def test_every_line_of_workers_and_of_their_parent_is_json(source, database):
    async with (
        database() as url,
        serve(
            source,
            *("--workers", "2", "--log-config", str(ROOT / "deploy/logging.json")),
            database_url=url,
            jwt_secret=SECRET,
        ) as service,
    ):
        assert await service.stop() in ENDED
        lines = service.lines()
        assert all(line.keys() >= MEMBERS for line in lines)
        said = {line["message"] for line in lines}
        assert said >= {"Application startup complete.", "Application shutdown complete."}


async def test_a_requests_id_is_in_its_answer_and_its_line_and_a_hostile_one_is_replaced(served):
    service, _ = served
    hostile = [b'{"level":"ERROR"}', b"a b", b"x" * 65, b"x" * 3000, "ü".encode(), b"\xff", b"a\tb"]
    answers = [
        await service.client.get("/nowhere", headers={b"X-Request-ID": given})
        for given in (b"mine.1_A-b", *hostile)
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert [answer.json()["request_id"] for answer in answers] == ids
    assert ids[0] == "mine.1_A-b"
    assert all(len(each) == 32 and each.isalnum() for each in ids[1:])
    assert [line["request_id"] for line in service.lines() if line["request_id"] in ids] == ids


async def test_a_huge_body_is_refused_without_being_kept(served):
    service, _ = served
    await service.sign_up("huge")
    before = service.memory("VmRSS")
    json_type, declared = {"Content-Type": "application/json"}, {"Content-Length": str(30 * 2**20)}
    for path, headers in (
        ("/peelings", json_type | declared),
        ("/nowhere", json_type | declared),
        ("/peelings", json_type),
        ("/users", json_type),
    ):
        answer = await service.client.post(path, content=megabytes(30), headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"] == "content_too_large"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert service.memory("VmHWM") - before < 20 * 2**20
    assert await service.status("/readyz") == 200


async def megabytes(count):
    for _ in range(count):
        yield b"x" * 2**20
