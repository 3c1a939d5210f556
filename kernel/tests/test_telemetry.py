"""The end of telemetry waits for no collector."""

import time
from threading import Event

import pytest
from opentelemetry import _logs, metrics, trace

from kernel.http import telemetry


class Provider:
    """Whose collector does not answer."""

    def __init__(self):
        self.is_told, self.never = Event(), Event()

    def shutdown(self):
        self.is_told.set()
        self.never.wait(10)


@pytest.fixture
def providers(monkeypatch):
    found = [Provider(), Provider(), Provider()]
    doors = (trace, "get_tracer_provider"), (metrics, "get_meter_provider")
    for (module, name), provider in zip(
        (*doors, (_logs, "get_logger_provider")), found, strict=True
    ):
        monkeypatch.setattr(module, name, lambda provider=provider: provider)
    monkeypatch.setattr(telemetry, "END_SECONDS", 0.2)
    yield found
    for provider in found:
        provider.never.set()


async def test_a_collector_that_does_not_answer_is_not_waited_for(providers):
    began = time.monotonic()
    await telemetry.end_telemetry()
    assert time.monotonic() - began < 2
    assert all(provider.is_told.is_set() for provider in providers)


async def test_a_provider_that_fails_at_the_end_is_told_in_the_log(providers, log):
    def fails():
        raise ZeroDivisionError

    for provider in providers:
        provider.shutdown = fails
    await telemetry.end_telemetry()
    [*lines] = log.lines("ERROR")
    assert [line["message"] for line in lines] == ["telemetry could not be ended"] * 3


def test_exporters_have_two_seconds_unless_it_is_said_otherwise(monkeypatch):
    name = "OTEL_EXPORTER_OTLP_TIMEOUT"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    for given, kept in (("7", "7"), (None, "2")):
        monkeypatch.setenv(name, given or "")
        if given is None:
            monkeypatch.delenv(name)
        assert telemetry.configure_telemetry() == {"operation_spans": False}
        assert telemetry.os.environ[name] == kept
