"""What all workers tell together, and what Prometheus, the dashboard and the alerts make of it."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from kernel.metric_files import IN_MEMORY, PREFIX
from kernel.settings import ROOT
from kernel.tests.processes import PATIENCE, checkout_in, serve, until
from kernel.tests.watching import (
    OBSERVABILITY,
    PROTOCOL,
    TOKEN,
    dashboard,
    panels,
    program,
    prometheus,
    sent,
)

# They are about Julienne's own `deploy/`, and its slice that shows the metrics.
pytestmark = [
    pytest.mark.house,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]
SECRET = "test" * 8
REQUESTS = 1000
# Its module is the first one that the service imports.
OWN_METRICS = """
from prometheus_client import Counter, Gauge

PEELED = Counter("peeled_total", "How many were peeled.", ["by"])
PEELERS = Gauge("peelers", "Who peels.", multiprocess_mode="livesum")
"""
OWN_ROUTES = """

from features.shared.counts import PEELED, PEELERS

PEELERS.set(1)


@router.get("/peeled/once")
async def peel() -> None:
    PEELED.labels("hand").inc()
"""


def with_metrics_of_its_own(folder):
    """A slice counts something itself."""
    (folder / "features/shared").mkdir(exist_ok=True)
    (folder / "features/shared/counts.py").write_text(OWN_METRICS)
    router = folder / "features/peelings/router.py"
    router.write_text(router.read_text() + OWN_ROUTES)
    service = folder / "service.py"
    service.write_text(f"from features.shared import counts  # noqa\n{service.read_text()}")


def samples(text):
    """What is told, by its name and the values of its labels."""
    return {
        (each.name, *each.labels.values()): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


async def told(service):
    return samples((await service.client.get("/metrics")).raise_for_status().text)


async def test_what_workers_count_is_exact_also_when_one_was_killed(tmp_path, database):
    with checkout_in(tmp_path / "source") as source:
        with_metrics_of_its_own(source)
        async with (
            database() as url,
            serve(source, *PROTOCOL, database_url=url, jwt_secret=SECRET) as service,
        ):
            await both_serve(service)
            folders = [*IN_MEMORY.glob(f"{PREFIX}{service.process.pid}-*")]
            await counts_exactly(service)
            await loses_gauges_alone(service)
            assert len(folders) == 1
            assert await service.stop() in {0, -signal.SIGTERM}
            assert not folders[0].exists()


async def both_serve(service):
    async def do():
        counted = await told(service)
        return counted["service_workers",] == counted["peelers",] == 2

    await until(do, PATIENCE)


def count_of(counted, *labels):
    return counted.get(("http_requests_total", *labels), 0)


async def counts_exactly(service):
    """A thousand requests, over connections of their own, so to both workers."""
    before = await told(service)
    paths = ("/livez", "/nowhere", "/peelings/1", "/peelings/peeled/once")

    async def ask(first):
        for number in range(first, REQUESTS, 10):
            await service.client.get(paths[number % 4])

    await asyncio.gather(*map(ask, range(10)))
    after = await told(service)
    for route, status in (
        *(("/livez", "200"), ("unmatched", "404")),
        *(("/peelings/{peeling_id}", "401"), ("/peelings/peeled/once", "200")),
    ):
        counted = [count_of(each, "GET", route, status) for each in (before, after)]
        assert counted[1] - counted[0] == REQUESTS / 4
        total = [
            each.get(("http_request_duration_seconds_count", "GET", route), 0)
            for each in (before, after)
        ]
        assert total[1] - total[0] == REQUESTS / 4
    assert after["peeled_total", "hand"] == REQUESTS / 4


async def loses_gauges_alone(service):
    before = await told(service)
    killed, *_ = service.workers()
    os.kill(killed, signal.SIGSTOP)  # or its parent could be faster than we
    os.kill(killed, signal.SIGKILL)

    async def has_gone():
        return (await told(service))["service_workers",] == 1

    await until(has_gone, PATIENCE)
    after = await told(service)
    assert after["database_pool_size", "writer"] == before["database_pool_size", "writer"] / 2
    assert (before["peelers",], after["peelers",]) == (2, 1)
    for key in (("peeled_total", "hand"), ("http_requests_total", "GET", "/livez", "200")):
        assert after[key] >= before[key]
    await both_serve(service)
    await service.client.get("/peelings/peeled/once")
    assert (await told(service))["peeled_total", "hand"] == before["peeled_total", "hand"] + 1


async def test_on_a_file_system_that_is_read_only_each_worker_tells_its_own(tmp_path, database):
    """What is mounted there is not to be written by anybody."""
    (tmp_path / "env").write_text("PROMETHEUS_MULTIPROC_DIR=/proc/self/nowhere\n")
    options = (*PROTOCOL, "--env-file", str(tmp_path / "env"))
    async with (
        database() as url,
        serve(ROOT, *options, database_url=url, jwt_secret=SECRET) as service,
    ):
        assert (await told(service))["service_workers",] == 1
        lines = service.log.read_text().splitlines()
        warning, *_ = [line for line in lines if "cannot share their metrics" in line]
        assert json.loads(warning)["level"] == "WARNING"
        assert "PROMETHEUS_MULTIPROC_DIR" in warning


# Prometheus.


def rules():
    (group,) = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_the_configuration_is_valid_and_each_alert_says_what_to_do(tmp_path):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in OBSERVABILITY.iterdir():
            shutil.copy(path, folder)
        (folder / "metrics_token").write_text(TOKEN)
        checked = subprocess.run(
            [program("promtool"), "check", "config", folder / "prometheus.yml"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert checked.returncode == 0, checked.stderr
    for rule in rules().values():
        assert rule["annotations"]["runbook"] == "docs/production.md#runbook"
        assert rule["labels"]["severity"] in {"page", "ticket"}


# An hour, a value each minute: of a service in which each alert has its cause, and of another one.
ILL = """
up{job="service"} 0x60
http_requests_total{status="200"} 0+10x60
http_requests_total{status="500"} 0+1x60
http_request_duration_seconds_bucket{le="1.0"} 0x60
http_request_duration_seconds_bucket{le="2.5"} 0+9x60
http_request_duration_seconds_bucket{le="+Inf"} 0+9x60
http_requests_refused_total{cause="shed"} 0+1x60
database_refusals_total{pool="writer",reason="no_connection"} 0+1x60
database_pool_in_use{pool="writer"} 19x60
database_pool_size{pool="writer"} 20x60
database_outage{pool="writer",reason="unreachable"} 1x60
database_replica_away 1x60
database_retries_total{kind="write",cause="lock"} 0+1x60
jobs_oldest_seconds{task="peel"} 301x60
jobs_failed{task="peel"} 1x60
rate_limit_away 1x60
password_hashes{state="waiting"} 1x60
event_loop_lag_seconds 0.3x60
service_workers 2x10 1x50
"""
WELL = """
up{job="service"} 1x60
http_requests_total{status="200"} 0+1000x60
http_requests_total{status="404"} 0+1000x60
http_requests_total{status="500"} 0+1x60
http_request_duration_seconds_bucket{le="0.5"} 0+995x60
http_request_duration_seconds_bucket{le="1.0"} 0+996x60
http_request_duration_seconds_bucket{le="+Inf"} 0+1000x60
http_requests_refused_total{cause="shed"} 5x60
http_requests_refused_total{cause="rate_limit"} 0+1x60
database_refusals_total{pool="writer",reason="no_connection"} 5x60
database_refusals_total{pool="writer",reason="share"} 0+1x60
database_pool_in_use{pool="writer"} 17x60
database_pool_size{pool="writer"} 20x60
database_pool_in_use{pool="probe"} 1x60
database_pool_size{pool="probe"} 1x60
database_outage{pool="writer",reason="unreachable"} 0x60
database_outage{pool="writer",reason="slow"} 1x60
database_replica_away 0x60
database_retries_total{kind="write",cause="lock"} 0+1x60
jobs_oldest_seconds{task="peel"} 20x60
jobs_failed{task="peel"} 0x60
rate_limit_away 0x60
password_hashes{state="running"} 1x60
password_hashes{state="waiting"} 0x60
event_loop_lag_seconds 0.01x60
service_workers 1x10 2x50
"""


def case(lines, firing):
    """One of `promtool test rules`: these series, and which alerts fire after half an hour."""
    series = [line.split(" ", 1) for line in lines.split("\n") if line]
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing]
    asked = "count by (alertname) (ALERTS{alertstate='firing'})"
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [{"expr": asked, "eval_time": "30m", "exp_samples": expected}],
    }


def test_each_alert_fires_for_its_cause_and_none_without_one(tmp_path):
    cases = {
        "rule_files": [str(OBSERVABILITY / "alerts.yaml")],
        "evaluation_interval": "1m",
        "tests": [case(ILL, rules()), case(WELL, [])],
    }
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))
    checked = subprocess.run(
        [program("promtool"), "test", "rules", tmp_path / "cases.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def hold_up(service, url):
    """Let reads wait for a lock, and so others for a connection; with errors of other kinds."""
    connection = await asyncpg.connect(url)
    key = {"X-API-Key": "a" * 40}  # who it is has to be looked up

    async def ask(path, **headers):
        return (await service.client.get(path, headers=headers)).status_code

    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE api_keys, users IN ACCESS EXCLUSIVE MODE")
            statuses = await asyncio.gather(*(ask("/users/me", **key) for _ in range(8)))
    finally:
        await connection.close()
    assert 503 in statuses
    assert await ask("/users/me", **key) == 401
    assert await ask("/nowhere") == 404


async def test_each_query_of_the_dashboard_and_the_alerts_has_an_answer(tmp_path, database):
    given = {"jwt_secret": SECRET, "metrics_token": TOKEN, "read_pool_size": 1, "pool_timeout": 0.2}
    async with (
        database() as url,
        serve(ROOT, *PROTOCOL, database_url=url, **given) as service,
        prometheus(tmp_path / "prometheus", f"127.0.0.1:{service.port}") as watching,
    ):
        assert await service.status("/metrics") == 401

        async def fires():
            await hold_up(service, url)
            await asyncio.sleep(0.5)
            alerts = (await watching.ask("alerts"))["alerts"]
            return "PoolExhausted" in {
                each["labels"]["alertname"] for each in alerts if each["state"] == "firing"
            }

        await until(fires, PATIENCE)
        missing = [
            (title, expression)
            for title, targets in panels()
            for expression, _ in targets
            if not await watching.query(expression)
        ]
        assert missing == []
        (releases,) = dashboard()["annotations"]["list"]
        assert await watching.query(sent(releases["expr"].replace("offset 2m", "offset 1h")))
        (group,) = (await watching.ask("rules"))["groups"]
        health = {each["name"]: each["health"] for each in group["rules"]}
        assert health == dict.fromkeys(rules(), "ok")
