"""OpenTelemetry where the environment asks for it, and its end, which waits for no collector."""

import asyncio
import logging
import os
import time
from threading import Thread
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import _logs, metrics, trace

# What an exporter may take at most; its own default is 10 s, and at the end it may take that
# several times.
EXPORT_SECONDS = "2"
END_SECONDS = 2.5
logger = logging.getLogger(__name__)


def configure_telemetry() -> TelemetryConfig:
    """FastAPI's OpenTelemetry where an `OTEL_…` variable asks for it; it takes the SDK.

    Otherwise it is off, or it would look for its providers in each request. A request is one span:
    those of FastAPI's own steps would need these steps, and so end the short way.
    """
    if not any(name.startswith(("OTEL_", "FASTAPI_OTEL_")) for name in os.environ):
        return {"tracing": False, "metrics": False, "logs": False}
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", EXPORT_SECONDS)
    # A collector that is away is an error, once; each attempt to reach it is none.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    return {"operation_spans": False}


async def end_telemetry() -> None:
    """Send what is left, all at the same time, and wait for that no longer than 2.5 s.

    FastAPI would send one after the other, with its own end, for as long as each of them takes.
    """
    providers: list[Any] = [
        trace.get_tracer_provider(),
        metrics.get_meter_provider(),
        _logs.get_logger_provider(),
    ]
    threads = [
        Thread(target=_shut_down, args=(provider,), daemon=True)
        for provider in providers
        if hasattr(provider, "shutdown")
    ]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(_join, threads, time.monotonic() + END_SECONDS)


def _join(threads: list[Thread], due: float) -> None:
    for thread in threads:
        thread.join(max(0.0, due - time.monotonic()))


def _shut_down(provider: Any) -> None:
    try:
        provider.shutdown()
    except Exception:
        logger.exception("telemetry could not be ended")
