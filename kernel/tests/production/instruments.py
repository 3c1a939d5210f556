"""OpenTelemetry's providers, as far as tests look at them: they keep what they are told."""

from typing import Any

from opentelemetry import metrics, trace


class Span(trace.NonRecordingSpan):
    """A span that keeps its attributes."""

    attributes: dict[str, object]

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: Any) -> None:
        self.attributes.update(attributes)


class Tracer(trace.NoOpTracer):
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def start_span(self, *_: object, **__: object) -> Span:
        span = Span(trace.INVALID_SPAN_CONTEXT)
        span.attributes = {}
        self.spans.append(span)
        return span


class TracerProvider(trace.TracerProvider):
    def __init__(self) -> None:
        self.tracer = Tracer()

    def get_tracer(self, *_: object, **__: object) -> Tracer:
        return self.tracer


class Recorder(metrics.Histogram):
    def __init__(self) -> None:
        self.attributes: list[dict[str, object]] = []

    def record(self, *told: Any) -> None:
        self.attributes.append({**told[1]})


class Meter(metrics.NoOpMeter):
    def __init__(self) -> None:
        super().__init__("test")
        self.recorder = Recorder()

    def create_histogram(self, *_: object, **__: object) -> Recorder:
        return self.recorder


class MeterProvider(metrics.MeterProvider):
    def __init__(self) -> None:
        self.meter = Meter()

    def get_meter(self, *_: object, **__: object) -> Meter:
        return self.meter
