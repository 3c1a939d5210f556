"""OpenTelemetry traces, if an `OTEL_…` variable is set: a span for each request, on the short way
too, and one for each of its statements, without values.

With `OTEL_EXPORTER_OTLP_ENDPOINT` they are sent there (OTLP over HTTP), which needs the packages of
the group `otel`. A tracer provider that was set before the app is built is used as it is.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl

from fastapi.telemetry import TelemetryConfig
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import CarrierT, Getter, default_getter
from opentelemetry.trace import ProxyTracerProvider, SpanKind, StatusCode

from kernel.context import RequestContext
from kernel.reminders import Reminders
from kernel.tracebacks import STATEMENT_MAX_CHARACTERS

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
NO_PACKAGES = "traces are off: OTEL_EXPORTER_OTLP_ENDPOINT needs uv sync --group otel"
NO_PROTOCOL = "traces are off: the only protocol is http/protobuf"
UNREADABLE = "traces are off: an OTEL_… variable cannot be read"
LOST = "the last spans are lost: the collector did not accept them in time"
# How long the shutdown waits for the last spans to be sent.
SHUTDOWN_SECONDS = 3.0
# They warn of what is wrong in a client's `traceparent`, `tracestate` and `baggage`, and quote it.
LOGGERS_OF_HEADERS = ("opentelemetry.baggage", "opentelemetry.trace")
OFF: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
logger = logging.getLogger(__name__)


class NoPropagator(CompositePropagator):
    """That of `OTEL_PROPAGATORS=none`: what clients say of traces is ignored. With the library's
    own, which gives no context at all, each request fails."""

    def extract(
        self,
        carrier: CarrierT,  # noqa: ARG002  # the library's
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,  # noqa: ARG002  # the library's
    ) -> Context:
        return Context() if context is None else context


def telemetry_config() -> TelemetryConfig:
    """FastAPI's telemetry settings. Without an `OTEL_…` variable it is off: it would look up its
    providers in each request. Spans of FastAPI's own steps are off: they would need these steps,
    and so rule out the short way. Its logs are off: exceptions in them have values."""
    if not any(name.startswith(("OTEL_", "FASTAPI_OTEL_")) for name in os.environ):
        return OFF
    if _is_ours() and (mistake := _mistake()):
        logger.warning(mistake)
        return OFF
    for name in LOGGERS_OF_HEADERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if "none" in os.environ.get("OTEL_PROPAGATORS", "").lower().replace(",", " ").split():
        propagate.set_global_textmap(NoPropagator([]))
    return {"operation_spans": False, "logs": False, "auto_configure": False}


def _is_ours() -> bool:
    """Whether spans are to be sent to an endpoint, and no other code has set a provider."""
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    is_wanted = not is_off and os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "none"
    has_none = isinstance(trace.get_tracer_provider(), ProxyTracerProvider)
    return is_wanted and has_none and any(map(os.environ.get, ENDPOINTS))


def _mistake() -> str | None:
    modules = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    try:
        has_packages = all(map(find_spec, modules))
    except ModuleNotFoundError:  # a package around one of them
        has_packages = False
    if not has_packages:
        return NO_PACKAGES
    protocol = next(filter(None, map(os.environ.get, PROTOCOLS)), "http/protobuf")
    return None if protocol == "http/protobuf" else NO_PROTOCOL


@asynccontextmanager
async def exporting(name: str, version: str) -> AsyncIterator[None]:
    """Send spans within the block, if configured; its end waits a few seconds for the last ones."""
    if not _is_ours() or _mistake():
        yield
        return
    try:
        provider = _make_provider(name, version)
    except ValueError:
        logger.warning(UNREADABLE, exc_info=True)
        yield
        return
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        await _shut_down(provider)


async def _shut_down(provider: Any) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # the loop is closed: the wait has timed out
            loop.call_soon_threadsafe(ended.set)

    # Not a thread of a pool: Python's exit would wait for it.
    threading.Thread(target=shut_down, daemon=True).start()
    try:
        async with asyncio.timeout(SHUTDOWN_SECONDS):
            await ended.wait()
    except TimeoutError:
        logger.warning(LOST)


def _make_provider(name: str, version: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # optional
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # optional
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # optional
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  # optional

    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        defaults = Resource({"service.name": name, "service.version": version})
        resource = resource.merge(defaults)
    reminders = Reminders()
    # Without a collector, each batch would log several lines.
    logging.getLogger(EXPORTER).addFilter(lambda record: reminders.count(record.msg) > 0)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def note_span(context: RequestContext, scope: Mapping[str, Any]) -> None:
    """Link the request and its span: the log lines get the span's ids, and the span the request's
    id. The values in the span's `url.query` are replaced by REDACTED."""
    span = trace.get_current_span()
    ids = span.get_span_context()
    if not ids.is_valid:
        return
    context.trace = {
        "trace_id": trace.format_trace_id(ids.trace_id),
        "span_id": trace.format_span_id(ids.span_id),
    }
    if not span.is_recording():
        return
    span.set_attribute("request_id", context.request_id)
    if text := scope["query_string"]:
        names = [name for name, _ in parse_qsl(text.decode("latin-1"), keep_blank_values=True)]
        span.set_attribute("url.query", "&".join(f"{name}=REDACTED" for name in names))
    context.on_statement = partial(_add_span, _tracer_of(trace.get_tracer_provider()))


@lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    return provider.get_tracer(__name__)


def _add_span(tracer: trace.Tracer, statement: str, seconds: float, error: str | None) -> None:
    """Add a span for a statement that has ended (semantic conventions for databases, 1.44)."""
    ended = time.time_ns()
    operation = statement.split(None, 1)[0].upper() if statement.strip() else "QUERY"
    attributes = {
        "db.system.name": "postgresql",
        "db.operation.name": operation,
        "db.query.text": statement[:STATEMENT_MAX_CHARACTERS],
    }
    span = tracer.start_span(
        operation,
        kind=SpanKind.CLIENT,
        attributes=attributes,
        start_time=ended - int(seconds * 1e9),
    )
    if error:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)
    span.end(ended)
