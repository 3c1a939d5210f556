"""Traces: joined with the log, on the short way, without values, and in nobody's way at the end."""

import asyncio
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from kernel.http import telemetry
from kernel.http.telemetry import (
    LOST,
    NO_PACKAGES,
    NO_PROTOCOL,
    OFF,
    UNREADABLE,
    exporting,
    telemetry_config,
)
from kernel.settings import ROOT
from kernel.tests import processes
from kernel.tests.processes import PATIENCE, serve, until

SECRET = "test" * 8
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CANARY = "canary"


@pytest.fixture
def environment(monkeypatch):
    for name in [name for name in os.environ if "OTEL_" in name]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_without_a_variable_there_are_no_traces(environment, caplog):
    assert telemetry_config() is OFF
    assert caplog.records == []


def test_an_endpoint_is_the_only_variable_that_traces_need(environment, caplog):
    environment.setenv(ENDPOINT, "http://127.0.0.1:4318")
    told: TelemetryConfig = {"operation_spans": False, "logs": False, "auto_configure": False}
    assert telemetry_config() == told
    assert caplog.records == []


@pytest.mark.parametrize(
    ("variables", "packages", "words"),
    [({}, False, NO_PACKAGES), ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, True, NO_PROTOCOL)],
)
def test_an_endpoint_that_nothing_can_be_sent_to_is_told_and_costs_nothing(
    environment, caplog, variables, packages, words
):
    environment.setenv(ENDPOINT, "http://127.0.0.1:4318")
    for name, value in variables.items():
        environment.setenv(name, value)
    if not packages:
        environment.setattr(telemetry, "find_spec", lambda _: None)
    assert telemetry_config() is OFF
    assert [(each.levelname, each.message) for each in caplog.records] == [("WARNING", words)]


async def test_a_variable_that_cannot_be_read_keeps_nobody_from_starting(environment, caplog):
    environment.setenv(ENDPOINT, "http://127.0.0.1:4318")
    environment.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    async with exporting("x", "1"):
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    assert UNREADABLE in [each.message for each in caplog.records]


@pytest.mark.parametrize("name", ["OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"])
def test_traces_that_are_turned_off_are_not_sent(environment, name):
    environment.setenv(ENDPOINT, "http://127.0.0.1:4318")
    environment.setenv(name, {"OTEL_SDK_DISABLED": "true"}.get(name, "none"))
    assert not telemetry._is_ours()


def test_what_is_optional_is_not_imported():
    code = "import service, sys; service.app; print(*sys.modules)"
    environment = {"PATH": os.environ["PATH"], "APP_RATE_LIMIT": "5/minute"}
    command = [sys.executable, "-c", code]
    loaded = set(subprocess.check_output(command, cwd=ROOT, env=environment, text=True).split())
    assert "kernel.identity.rate_limit" in loaded
    optional = ("redis", "opentelemetry.sdk", "opentelemetry.exporter")
    assert [name for name in loaded if name.startswith(optional)] == []


# With a collector.


class Collector:
    """OTLP over HTTP, as far as to keep the spans."""

    def __init__(self):
        self.spans, self.resources = [], []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                owner.keep(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def keep(self, request):
        for of_resource in request.resource_spans:
            self.resources.append(attributes_of(of_resource.resource))
            for scope in of_resource.scope_spans:
                self.spans += scope.spans

    def of(self, trace_id):
        return [span for span in self.spans if span.trace_id.hex() == trace_id]


def attributes_of(thing):
    values = {each.key: each.value for each in thing.attributes}
    return {key: getattr(value, value.WhichOneof("value")) for key, value in values.items()}


@contextmanager
def collecting():
    collector = Collector()
    threading.Thread(target=collector.server.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        collector.server.server_close()


@pytest.mark.slow
@pytest.mark.house  # a team's service may have other paths
async def test_a_request_is_one_trace_with_its_statements_and_the_logs_ids(database, monkeypatch):
    with collecting() as collector:
        async with database() as url, traced(monkeypatch, url, collector.url) as service:
            await service.sign_up("traced")
            client, asked = service.client, {}
            body = {"title": f"{CANARY}-1"}
            requests = {
                "create": client.post("/items", json=body),
                "list": client.get(f"/items?q={CANARY}&limit=5"),
                "missing": client.get("/items/77777"),
                "invalid": client.post("/items", json={"titel": CANARY}),
            }
            for name, request in requests.items():
                asked[name] = (await request).headers["x-request-id"]
            parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
            await client.get("/users/me", headers={"traceparent": parent})
            for name, value in INVALID:
                answer = await client.get("/livez", headers={"traceparent": parent, name: value})
                assert answer.status_code == 200
            await service.stop()  # which sends what is left
        every = service.lines()
    lines = [line for line in every if line["message"] == "request"]
    assert "opentelemetry" not in str(every)
    traces = {line["request_id"]: line.get("trace_id") for line in lines}
    assert None not in traces.values()
    by_name = {name: collector.of(traces[request_id]) for name, request_id in asked.items()}
    for name, request_id in asked.items():
        (server,) = [span for span in by_name[name] if span.kind == span.SPAN_KIND_SERVER]
        assert attributes_of(server)["request_id"] == request_id
        assert server.span_id.hex() in {line.get("span_id") for line in lines}
        for span in by_name[name]:
            assert span is server or span.parent_span_id == server.span_id
    statements = [span for span in by_name["create"] if span.kind == span.SPAN_KIND_CLIENT]
    told = Counter(span.name for span in statements)
    assert told["BEGIN"] == told["COMMIT"] == told["INSERT"] == 1
    (insert,) = [attributes_of(span) for span in statements if span.name == "INSERT"]
    assert insert["db.system.name"] == "postgresql"
    assert insert["db.query.text"].startswith("INSERT INTO items")
    assert all(span.end_time_unix_nano > span.start_time_unix_nano for span in statements)
    (listed,) = [span for span in by_name["list"] if span.kind == span.SPAN_KIND_SERVER]
    assert attributes_of(listed)["url.query"] == "q=REDACTED&limit=REDACTED"
    assert attributes_of(listed)["http.route"] == "/items"
    assert collector.of("ab" * 16)  # the caller's own trace
    assert CANARY not in "".join(str(span) for span in collector.spans)
    assert {each["service.name"] for each in collector.resources} == {"julienne"}


# Each of these makes the library warn, with the value in its warning.
INVALID = [
    ("traceparent", "00-" + "ab" * 300),
    ("tracestate", ",".join(f"{CANARY}{number}=1" for number in range(40))),
    ("tracestate", f"{CANARY}=="),
    ("baggage", f"{CANARY}{CANARY}"),
    ("baggage", ",".join(f"{CANARY}{number}=1" for number in range(200))),
]


def traced(monkeypatch, url, endpoint, **variables):
    """The service with traces: `serve` gives it nothing else of the environment."""
    variables |= {ENDPOINT: endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    known = processes.variables_of_slices()
    monkeypatch.setattr(processes, "variables_of_slices", lambda: known | variables)
    return serve(ROOT, database_url=url, jwt_secret=SECRET)


@pytest.mark.slow(seconds=12)
@pytest.mark.house
@pytest.mark.parametrize("way", ["down", "silent"])
async def test_a_dead_collector_delays_no_request(database, monkeypatch, way):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if way == "down":
            silent.close()
        async with (
            database() as url,
            # None is a propagator with which the library gives FastAPI nothing to go on with.
            traced(
                monkeypatch, url, f"http://127.0.0.1:{port}", OTEL_PROPAGATORS="none"
            ) as service,
        ):
            began = time.monotonic()
            while time.monotonic() - began < 2:
                assert await service.status("/readyz") == 200
                await asyncio.sleep(0.1)
            ended = time.monotonic()
            service.process.terminate()

            async def has_ended():
                return service.process.poll() is not None

            await until(has_ended, PATIENCE)
            assert time.monotonic() - ended < 8
        told = [line for line in service.lines() if line["level"] in {"WARNING", "ERROR"}]
    assert len(told) <= 5, json.dumps(told, indent=1)
    if way == "silent":
        assert LOST in {line["message"] for line in told}
