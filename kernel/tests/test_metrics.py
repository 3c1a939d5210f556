"""What is counted: each request by its route, what it took, and what the service has now."""

import asyncio
import fcntl
import os
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import prometheus_client
import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from kernel import metric_files, metrics
from kernel.data.outages import Outages
from kernel.data.reader import ReadPool
from kernel.data.readers import ReplicaReader
from kernel.data.resources import resources_of
from kernel.data.schema import head_revision
from kernel.data.sqlstate import UNREACHABLE, unavailable
from kernel.driver_errors import ShareTimeout
from kernel.exposition import render
from kernel.http.dependencies import Id, Passwords
from kernel.http.gauges import sample, sampled
from kernel.http.router import Router
from kernel.http.server import _shed
from kernel.identity.in_flight import InFlight
from kernel.identity.passwords import PasswordVault
from kernel.metric_files import MetricFiles
from kernel.metrics import BUCKETS, Cost, Family, Values, count_request


@pytest.fixture(autouse=True)
def _counted_anew(monkeypatch):
    """Nothing was counted before, and nothing is left in files."""
    before = metrics.STATE.values
    metrics.STATE.use(Values())
    yield
    metric_files.SHARING.files = metric_files.SHARING.problem = None
    metrics.STATE.use(before)


def told():
    """Each sample that is not zero, by its name and labels."""
    return read(render("")[0])


def read(text):
    return {
        (each.name, *each.labels.values()): each.value
        for family in text_string_to_metric_families(text.decode())
        for each in family.samples
        if each.value
    }


def answers():
    """How often which answer was given, by method, route and status."""
    return {key[1:]: value for key, value in told().items() if key[0] == "http_requests_total"}


async def test_each_answer_counts_for_its_route_and_never_for_its_path(client, alice):
    for path in ("/peelings/7", "/peelings/8", "/nowhere", "/else/where", "/livez"):
        await alice.get(path)
    await alice.head("/livez")
    await client.request("CANARY", "/livez")
    await client.request("CANARY", "/nowhere/canary")
    assert answers() == {
        ("GET", "/peelings/{peeling_id}", "404"): 2,
        ("GET", "unmatched", "404"): 2,
        ("GET", "/livez", "200"): 1,
        ("HEAD", "/livez", "200"): 1,
        ("other", "/livez", "405"): 1,
        ("other", "unmatched", "404"): 1,
    }


@pytest.mark.parametrize("layers", [set(), {"plan"}], ids=["short", "long"])
async def test_a_router_that_is_mounted_twice_has_two_routes(mount, layers, monkeypatch, log):
    monkeypatch.setattr("kernel.fast.routing.OFF", layers)
    inner, outer = Router(), APIRouter()

    @inner.get("/{number}")
    async def get_number(number: Id) -> int:
        return number

    outer.include_router(inner, prefix="/odd")
    outer.include_router(inner, prefix="/even/{of}")
    async with mount(outer) as client:
        for path in ("/odd/1", "/even/a/2", "/even/b/4"):
            assert (await client.get(path)).status_code == 200
    routes = {"/odd/{number}": 1, "/even/{of}/{number}": 2}
    assert answers() == {("GET", route, "200"): number for route, number in routes.items()}
    assert {line["route"] for line in log.lines() if "route" in line} == {*routes}


@pytest.mark.parametrize("root_path", ["", "/api"])
async def test_the_route_of_a_mounted_app_begins_where_that_is_mounted(mount, log, root_path):
    inner, within, router = FastAPI(), FastAPI(), APIRouter()
    for app in (inner, within):
        app.get("/{number}")(lambda number: number)
    inner.mount("/within", within)
    router.mount("/{tenant}/beside", inner)
    async with mount(Router()) as client:
        client.app.mount("/inner", inner)
        client.app.include_router(router, prefix="/v1")
        transport = httpx.ASGITransport(client.app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as asking:
            for path in ("/inner/1", "/inner/2", "/inner/within/3", "/v1/a/beside/4", "/inner/5/6"):
                await asking.get(root_path + path)
    assert answers() == {
        ("GET", "/inner/{number}", "200"): 2,
        ("GET", "/inner/within/{number}", "200"): 1,
        ("GET", "/v1/{tenant}/beside/{number}", "200"): 1,
        ("GET", "unmatched", "404"): 1,
    }


async def test_what_a_request_took_counts_for_its_route(alice):
    await alice.get("/peelings")  # who would begin again, had a test before changed the schema
    metrics.STATE.use(Values())
    for _ in range(3):
        await alice.get("/peelings")
    counted = told()
    of = ("GET", "/peelings")
    assert counted["http_request_duration_seconds_count", *of] == 3
    assert counted["http_request_queries_total", *of] == 6  # the caller's and the list's
    seconds = counted["http_request_duration_seconds_sum", *of]
    assert 0 < counted["http_request_database_seconds_total", *of] < seconds < 3


def test_a_duration_is_in_the_bucket_of_its_upper_limit():
    for seconds in (*BUCKETS, 11.0):
        count_request("GET", "/", 200, Cost(seconds, 0, 0.0))
    (family,) = [
        each
        for each in text_string_to_metric_families(render("")[0].decode())
        if each.name == "http_request_duration_seconds"
    ]
    counts = [each.value for each in family.samples if each.name.endswith("_bucket")]
    assert counts == [*range(1, len(BUCKETS) + 2)]


async def test_a_crash_counts_as_a_500(mount):
    router = Router()

    @router.get("/crash")
    async def crash() -> None:
        raise ZeroDivisionError

    async with mount(router) as client:
        assert (await client.get("/crash")).status_code == 500
    assert answers() == {("GET", "/crash", "500"): 1}


async def test_requests_that_are_refused_unhandled_are_counted(client):
    refused = await client.post("/peelings", content=b"x" * 2_000_000)
    assert refused.status_code == 413
    assert answers() == {("POST", "unmatched", "413"): 1}


async def test_what_the_server_sheds_counts():
    async def send(message):
        sent.append(message)

    sent = []
    await _shed({"type": "http", "method": "GET", "headers": [], "client": None}, None, send)
    assert sent[0]["status"] == 503
    assert told()["http_requests_refused_total", "shed"] == 1
    assert answers() == {("GET", "unmatched", "503"): 1}


async def test_requests_count_while_they_are_under_way_and_no_longer(mount):
    router, begun, may_end = Router(), asyncio.Event(), asyncio.Event()

    @router.get("/wait")
    async def wait() -> None:
        begun.set()
        await may_end.wait()

    async with mount(router) as client:
        before = metrics.STATE.under_way
        requests = [asyncio.create_task(client.get("/wait")) for _ in range(2)]
        await begun.wait()
        await asyncio.sleep(0.01)
        sample(resources_of(client.app))
        assert told()["http_requests_in_flight",] == before + 2
        requests[0].cancel()
        may_end.set()
        await asyncio.gather(*requests, return_exceptions=True)
        assert metrics.STATE.under_way == before


async def test_a_pool_tells_who_has_its_connections_and_who_waits(app):
    resources = resources_of(app)
    pool = resources.writer._pools[0]
    size = pool.load().size
    taken = [await pool.take() for _ in range(size)]
    waiters = [asyncio.create_task(pool.take()) for _ in range(3)]
    await asyncio.sleep(0)
    sample(resources)
    counted = told()
    for link in taken:
        pool.give_back(link)
    for waiter in waiters:
        pool.give_back(await waiter)
    named = {name: counted[f"database_pool_{name}", "writer"] for name in ("size", "in_use")}
    assert named == {"size": size, "in_use": size}
    assert counted["database_pool_waiting", "writer"] == 3
    sample(resources)
    assert ("database_pool_in_use", "writer") not in told()


async def test_a_pool_tells_why_it_has_refused(mount, alice):
    async with mount(Router(), pool_timeout=0.05) as client:
        pool = resources_of(client.app).primary._connections
        links = [await pool.take() for _ in range(pool.load().size)]
        answer = await client.get("/readyz")
        assert answer.status_code == 200  # which has a connection of its own
        refused = await client.get("/users/me", headers=alice.headers)
        assert refused.json()["reason"] == "no_connection"
        for link in links:
            pool.give_back(link)
    assert told()["database_refusals_total", "reader", "no_connection"] == 1
    assert told()["database_outage", "reader", "no_connection"] == 1


def test_a_caller_who_has_its_share_is_a_cause_of_its_own():
    Outages("writer", "postgresql://h/name").note_failure(ShareTimeout(), is_read=False)
    assert told()["database_refusals_total", "writer", "share"] == 1


@pytest.mark.parametrize(
    ("sqlstate", "cause"),
    [("40001", "serialization"), ("40P01", "deadlock"), ("55P03", "lock"), ("57P01", "disconnect")],
)
async def test_what_is_run_again_counts_by_its_cause(alice, fail_first, sqlstate, cause):
    await fail_first(times=2, sqlstate=sqlstate)
    made = await alice.post("/peelings", json={"title": "Soup"})
    assert made.status_code == 201
    assert told()["database_retries_total", cause, "write"] == 2


async def test_a_worker_that_lets_requests_pass_uncounted_is_told_of(mount, free_tcp_port):
    nowhere = SecretStr(f"redis://127.0.0.1:{free_tcp_port}")
    async with mount(Router(), rate_limit="1/minute", redis_url=nowhere) as client:
        sample(resources_of(client.app))
        assert ("rate_limit_away",) not in told()
        assert [(await client.get("/nowhere")).status_code for _ in range(2)] == [404, 404]
        sample(resources_of(client.app))
        assert told()["rate_limit_away",] == 1


async def test_an_event_loop_that_is_held_up_is_told_of(app, monkeypatch):
    monkeypatch.setattr("kernel.http.gauges.SAMPLE_SECONDS", 0.05)
    lags = []  # all of them: the app has a sampler, too, which may come after this one
    monkeypatch.setattr("kernel.http.gauges.LAG", SimpleNamespace(set=lags.append))
    async with sampled(resources_of(app)):
        await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251  # which holds it up
        for _ in range(3):
            await asyncio.sleep(0)
    assert 0.08 < max(lags) < 10


async def test_a_worker_tells_which_service_it_is_and_its_use_of_the_processor(app):
    async with sampled(resources_of(app)):
        await asyncio.sleep(0)
    counted, resources = told(), resources_of(app)
    assert counted["service_info", head_revision(), resources.name, resources.version] == 1
    assert counted["service_workers",] == 1
    assert counted["service_cpu_seconds_total",] > 0


async def test_hashes_that_wait_count(mount):
    router = Router()

    @router.post("/hash")
    async def hash_it(passwords: Passwords) -> None:
        sample(resources)

    async with mount(router) as client:
        resources = resources_of(client.app)
        vault = resources.get(PasswordVault)
        threads = [await vault._threads.take() for _ in range(2)]
        waiting = asyncio.create_task(vault._threads.take())
        await asyncio.sleep(0)
        await client.post("/hash")
        counted = told()
        for thread in threads:
            vault._threads.give_back(thread)
        vault._threads.give_back(await waiting)
    assert (counted["password_hashes", "running"], counted["password_hashes", "waiting"]) == (2, 1)


class Reads(ReadPool):
    def __init__(self):
        self.is_away = False

    async def fetch(self, *_, **__):
        if self.is_away:
            raise unavailable(UNREACHABLE)
        return []


async def test_a_replica_that_is_away_is_told_of_until_it_answers(monkeypatch):
    monkeypatch.setattr("kernel.data.readers.RETRY_SECONDS", 0.0)
    replica = Reads()
    reader = ReplicaReader(replica, Reads())
    for is_away, expected in ((False, 0), (True, 1), (True, 1), (False, 0)):
        replica.is_away = is_away
        await reader.fetch(None)
        assert told().get(("database_replica_away",), 0) == expected


async def test_a_look_at_the_metrics_is_not_counted_for_its_caller(app, monkeypatch):
    monkeypatch.setattr("kernel.identity.in_flight.InFlight.count", lambda *_: False)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/livez")).status_code == 429
        assert (await client.get("/metrics")).status_code != 429
    assert told()["http_requests_refused_total", "in_flight"] == 1


# Files.

GAUGE = Family("test_gauge", "A gauge.", ("of",), "gauge")
HIGHEST = Family("test_highest", "The highest one.", (), "highest")
COUNTER = Family("test_counter_total", "A counter.", ("of",))


@pytest.fixture
def folder(tmp_path):
    return tmp_path


class Worker:
    """One of several, all of which are this process."""

    def __init__(self, folder: Path) -> None:
        self.files = MetricFiles(folder)
        self.values = metrics.STATE.values

    def works(self) -> None:
        metrics.STATE.use(self.values)
        metric_files.SHARING.files = self.files

    def dies(self) -> None:
        fcntl.flock(self.files._file, fcntl.LOCK_UN)


def count(number):
    COUNTER.add(number, "x")
    GAUGE.set(number, "x")
    HIGHEST.set(number)


def ours():
    return {key[0]: value for key, value in told().items() if key[0].startswith("test_")}


def test_each_worker_tells_for_all(folder):
    workers = [Worker(folder) for _ in range(3)]
    for number, worker in enumerate(workers, 1):
        worker.works()
        count(number)
    for worker in workers:
        worker.works()
        assert ours() == {"test_counter_total": 6, "test_gauge": 6, "test_highest": 3}


def test_what_a_dead_worker_has_counted_stays_and_its_gauges_go(folder):
    dead, live = Worker(folder), Worker(folder)
    for worker, number in ((dead, 5), (live, 2)):
        worker.works()
        count(number)
    dead.dies()
    live.works()
    assert ours() == {"test_counter_total": 7, "test_gauge": 2, "test_highest": 2}
    successor = Worker(folder)  # goes on in the file of the dead one
    successor.works()
    assert ours() == {"test_counter_total": 7, "test_gauge": 2, "test_highest": 2}
    count(1)
    assert ours() == {"test_counter_total": 8, "test_gauge": 3, "test_highest": 2}
    assert sorted(path.name for path in folder.glob("*.values")) == ["0.values", "1.values"]


def test_the_gauges_of_slices_go_with_their_worker(folder):
    """Files of prometheus_client's, named by the process."""
    dead, live = Worker(folder), Worker(folder)
    dead.values.numbers[0] = 99
    for name in ("gauge_livesum_99.db", "gauge_liveall_99.db", "counter_99.db", "gauge_all_99.db"):
        (folder / name).write_bytes(b"\x08\0\0\0\0\0\0\0")
    live.works()
    told()
    assert len([*folder.glob("*_99.db")]) == 4
    dead.dies()
    told()
    assert {each.name for each in folder.glob("*_99.db")} == {"counter_99.db", "gauge_all_99.db"}


def test_a_worker_that_ends_last_takes_the_folder_away(tmp_path):
    folder = tmp_path / f"{metric_files.PREFIX}1-x"
    folder.mkdir()
    first, second = Worker(folder), Worker(folder)
    first.files.leave()
    assert folder.exists()
    second.files.leave()
    assert not folder.exists()


def test_what_a_killed_parent_has_left_is_taken_away_and_nothing_else(tmp_path):
    gone = 2**22 + 1  # beyond the kernel's pid_max
    names = [f"{gone}-unused", f"{gone}-used", f"{os.getppid()}-unused", "x-y"]
    folders = [tmp_path / f"{metric_files.PREFIX}{name}" for name in names]
    for each in folders:
        each.mkdir()
    Worker(folders[0]).dies()
    used = Worker(folders[1])
    metric_files._sweep(tmp_path)
    assert [each.exists() for each in folders] == [False, True, True, True]
    used.dies()


def test_what_another_version_has_counted_is_not_taken_for_ours(folder):
    before = Worker(folder)
    before.works()
    COUNTER.add(3, "x")
    for key, width in (
        (("test_counter_total", "x", "y"), 1),
        (("test_counter_total", "z"), 2),
        (("test_gone_total", "x"), 5),
    ):
        before.values.numbers[before.values.reserve(key, width)] = 7
    before.dies()
    after = Worker(folder)
    after.works()
    assert ours() == {"test_counter_total": 3}
    count(1)
    assert ours() == {"test_counter_total": 4, "test_gauge": 1, "test_highest": 1}


def test_numbers_grow_as_they_are_needed(folder):
    worker = Worker(folder)
    for values in (Values(), worker.values):
        metrics.STATE.use(values)
        for number in range(2000):
            COUNTER.add(number, str(number))
        assert values.numbers[values.series["test_counter_total", "1999"]] == 1999
        assert values.numbers[values.series["test_counter_total", "1"]] == 1


def test_too_many_numbers_are_told_of_and_harm_nobody(folder, log, monkeypatch):
    monkeypatch.setattr(metrics, "MOST_NUMBERS", 600)
    for values in (Values(), Worker(folder).values):
        metrics.STATE.use(values)
        for number in range(2000):
            COUNTER.add(1, str(number))
        count_request("GET", "/new", 200, Cost(0.1, 1, 0.1))
        assert values.numbers[values.series["test_counter_total", "400"]] == 1
    assert {line["level"] for line in log.lines()} == {"WARNING"}
    assert len(log.lines()) == 2


class Parent:
    pid = 1


def test_a_folder_that_cannot_be_written_leaves_a_worker_to_itself(monkeypatch, tmp_path):
    monkeypatch.setattr(metric_files, "parent_process", Parent)
    monkeypatch.setenv(metric_files.VARIABLE, str(tmp_path / "missing" / "folder"))
    metric_files.share_metrics()
    assert metric_files.SHARING.files is None
    assert "PROMETHEUS_MULTIPROC_DIR" in metric_files.SHARING.problem
    count(1)
    assert ours() == {"test_counter_total": 1, "test_gauge": 1, "test_highest": 1}


def no_folder():
    raise FileNotFoundError(2, "No usable temporary directory found")


@pytest.fixture
def parent(monkeypatch):
    """This process is a worker."""
    monkeypatch.setattr(metric_files, "parent_process", Parent)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "prometheus_client")
    monkeypatch.setenv(metric_files.VARIABLE, "x")  # to be what it was afterwards
    monkeypatch.delenv(metric_files.VARIABLE)


def test_shared_memory_is_enough_where_nothing_else_can_be_written(parent, monkeypatch, tmp_path):
    monkeypatch.setattr(metric_files, "IN_MEMORY", tmp_path)
    monkeypatch.setattr(metric_files, "gettempdir", no_folder)
    metric_files.share_metrics()
    assert metric_files.SHARING.problem is None
    folder = metric_files.SHARING.files.folder
    assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
    assert os.environ[metric_files.VARIABLE] == str(folder)


def test_temporary_files_are_where_there_is_no_shared_memory(parent, monkeypatch, tmp_path):
    monkeypatch.setattr(metric_files, "IN_MEMORY", tmp_path / "missing")
    monkeypatch.setattr(metric_files, "gettempdir", lambda: str(tmp_path))
    metric_files.share_metrics()
    assert metric_files.SHARING.files.folder.parent == tmp_path


def test_where_nothing_can_be_written_slices_may_count_all_the_same(parent, monkeypatch, tmp_path):
    monkeypatch.setattr(metric_files, "IN_MEMORY", tmp_path / "missing")
    monkeypatch.setattr(metric_files, "gettempdir", no_folder)
    metric_files.share_metrics()
    assert "No usable temporary directory" in metric_files.SHARING.problem
    assert metric_files.VARIABLE not in os.environ


def test_metrics_of_slices_that_were_made_too_early_are_told_by_each_worker(
    parent, monkeypatch, tmp_path
):
    monkeypatch.setattr(metric_files, "IN_MEMORY", tmp_path)
    monkeypatch.setitem(sys.modules, "prometheus_client", prometheus_client)
    early = prometheus_client.Counter("early", "Made before the workers share.")
    early.inc()
    metric_files.share_metrics()
    count(1)
    neighbour = Worker(metric_files.SHARING.files.folder)
    count(2)
    try:
        assert "--http kernel.http.server:Protocol" in metric_files.SHARING.problem
        assert ours() == {"test_counter_total": 3, "test_gauge": 3, "test_highest": 2}
        assert told()["early_total",] == 1
    finally:
        prometheus_client.REGISTRY.unregister(early)
        neighbour.dies()


def test_a_slice_cannot_have_a_name_of_the_kernels():
    told()
    with pytest.raises(ValueError, match="http_requests_total"):
        prometheus_client.Counter("http_requests_total", "Another one.")


def test_one_process_alone_needs_no_file(monkeypatch):
    monkeypatch.delenv(metric_files.VARIABLE, raising=False)
    metric_files.share_metrics()
    assert (metric_files.SHARING.files, metric_files.SHARING.problem) == (None, None)


async def test_who_has_too_much_in_flight_is_counted_when_his_account_is_known(alice, monkeypatch):
    metrics.STATE.use(Values())
    count = InFlight.count
    monkeypatch.setattr(
        InFlight, "count", lambda self, context: not context.user_id and count(self, context)
    )
    assert (await alice.get("/peelings")).status_code == 429
    assert told()["http_requests_refused_total", "in_flight"] == 1


@contextmanager
def files_of_at_most(size):
    """As on a disk that is nearly full, a file takes a part of what is written, and then none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LONG = Family("test_long_total", "A counter.", ("of",))
WIDE = Family("test_wide", "A histogram.", ("of",), "histogram")


@pytest.mark.parametrize("family", [LONG, WIDE], ids=["series", "numbers"])
def test_what_there_is_no_room_for_is_told_of_and_harms_nothing(folder, log, family):
    worker = Worker(folder)
    worker.works()
    with files_of_at_most(3 * 4096 - 3):
        for number in range(300):
            family.add(1, f"{number:060}")
    assert [line["level"] for line in log.lines()] == ["WARNING"]
    assert 50 < len(worker.values.series) < 300
    worker.dies()
    successor = Worker(folder)
    successor.works()
    assert successor.values.series == worker.values.series
    family.add(1, "new")
    (every,) = successor.files.read_all()
    assert every[1][every[0][family.name, "new"]] == 1


def test_a_line_that_a_killed_worker_was_writing_is_no_part_of_the_next(folder):
    dead = Worker(folder)
    dead.works()
    COUNTER.add(3, "x")
    os.write(dead.values._series_file, b'[48, 1, "test_cou')
    dead.dies()
    successor = Worker(folder)
    successor.works()
    COUNTER.add(4, "y")
    assert {key[1:]: value for key, value in told().items() if key[0].startswith("test_")} == {
        ("x",): 3,
        ("y",): 4,
    }
