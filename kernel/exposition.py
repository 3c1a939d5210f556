"""Renders the metrics of all workers, with those of slices, in the formats of Prometheus."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    REGISTRY,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from kernel.metric_files import SHARING
from kernel.metrics import BUCKETS, FAMILIES, STATE, Family, Key, WorkerMetrics

LIMITS = [*map(str, BUCKETS), "+Inf"]


def render(accept: str) -> tuple[bytes, str]:
    """All metrics in the format that a scraper accepts, and its media type."""
    try:
        encode, media_type = choose_encoder(accept)
    except TypeError:  # the library compares the parts of a version, be they numbers or not
        encode, media_type = choose_encoder("")
    return encode(_registry()), media_type


def _registry() -> CollectorRegistry:
    if SHARING.files is None or SHARING.problem:
        return REGISTRY
    registry = CollectorRegistry()
    registry.register(COLLECTOR)
    MultiProcessCollector(registry, path=str(SHARING.files.folder))  # type: ignore[no-untyped-call]  # the library's
    return registry


class ServiceCollector(Collector):
    """The kernel's metrics. It is in the library's registry, which refuses duplicate names."""

    def describe(self) -> Iterable[Metric]:
        return [_metric(family) for family in FAMILIES.values()]

    def collect(self) -> Iterator[Metric]:
        totals = _totals()
        for family in FAMILIES.values():
            metric = _metric(family)
            for labels, numbers in totals.get(family.name, {}).items():
                _add(metric, labels, numbers)
            yield metric


def _totals() -> dict[str, dict[Key, list[float]]]:
    totals: dict[str, dict[Key, list[float]]] = defaultdict(dict)
    for series, numbers, is_alive in _all_workers():
        for (name, *labels), place in series.items():
            family = FAMILIES[name]
            if family.is_gauge and not is_alive:
                continue
            values = [*numbers[place : place + family.width]]
            total = totals[name].get(tuple(labels))
            if total and family.kind == "highest":
                values = [max(total[0], values[0])]
            elif total:
                values = [a + b for a, b in zip(total, values, strict=True)]
            totals[name][tuple(labels)] = values
    return totals


def _all_workers() -> Iterable[WorkerMetrics]:
    if SHARING.files:
        return SHARING.files.read_all()
    return [({**STATE.values.series}, STATE.values.numbers, True)]


def _metric(family: Family) -> Metric:
    if family.kind == "histogram":
        return HistogramMetricFamily(family.name, family.help, labels=family.labels)
    if family.kind == "counter":
        return CounterMetricFamily(family.name, family.help, labels=family.labels)
    return GaugeMetricFamily(family.name, family.help, labels=family.labels)


def _add(metric: Metric, labels: Key, numbers: list[float]) -> None:
    if isinstance(metric, HistogramMetricFamily):
        *counts, total = numbers
        metric.add_metric(labels, [*zip(LIMITS, accumulate(counts), strict=True)], total)
    elif isinstance(metric, CounterMetricFamily | GaugeMetricFamily):
        metric.add_metric(labels, numbers[0])


COLLECTOR = ServiceCollector()
REGISTRY.register(COLLECTOR)
