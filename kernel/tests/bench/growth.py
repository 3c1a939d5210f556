"""What requests cost as things grow: rows, slices, connections; and what a second worker brings."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from math import inf
from pathlib import Path
from urllib.parse import urlencode

from kernel.tests.bench.alike import GET, LIST, POST, SERVICE
from kernel.tests.bench.bound import seal
from kernel.tests.bench.comparison import middle
from kernel.tests.bench.report import draw_lines, keep, markdown
from kernel.tests.bench.stage import (
    ADMIN,
    OWNER,
    SECRET,
    Failed,
    Items,
    Load,
    Operation,
    Running,
    Sample,
    System,
    fill,
    press,
    serving,
)

ROWS = (1_000, 10_000, 100_000, 1_000_000)
SLICES = (5, 20, 80)
CONNECTIONS = (8, 32, 128)
OWN_SLICES = 5
CROWDED = System("crowded", "Julienne", "kernel.tests.bench.crowded:app")
MOST = 1.3
HEADER = ("", "at", "requests/s", "p50 ms", "p99 ms", "app CPU µs", "database CPU µs")
# By size, what each operation costs there.
Costs = dict[int, dict[str, Sample]]


async def grow(url: str, folder: Path, load: Load) -> None:
    """Measure the service at each size; print and keep what it costs there."""
    rows, log = Costs(), folder / "log"
    for count in ROWS:
        items = await fill(url, count, 2)
        async with serving(SERVICE, items.url, log) as running:
            rows[count] = await _measure(running, _row_operations(), items, load)
        if count == 100_000:
            slices = await _grow_slices(items, log, load)
            connections = await _grow_connections(items, log, load)
    parts = {"Rows": rows, "Slices": slices, "Connections": connections}
    tables = [f"### {name}\n\n{markdown(HEADER, _lines(costs))}" for name, costs in parts.items()]
    keep("growth", *tables, "\n".join(_verdicts(rows)))
    title = "CPU for each request, app and database together, in µs, as things grow"
    draw_lines("growth", title, {name: _curves(costs) for name, costs in parts.items()})


async def _grow_slices(items: Items, log: Path, load: Load) -> Costs:
    costs = Costs()
    for number in SLICES:
        async with serving(CROWDED, items.url, log, crowd=number - OWN_SLICES) as running:
            costs[number] = await _measure(running, (GET, LIST, POST), items, load)
    return costs


async def _grow_connections(items: Items, log: Path, load: Load) -> Costs:
    async with serving(SERVICE, items.url, log) as running:
        return {
            number: await _measure(
                running, (GET, LIST, POST), items, replace(load, connections=number)
            )
            for number in CONNECTIONS
        }


def _row_operations() -> list[Operation]:
    """Every second item is the owner's, and the oldest 50 items are the last page."""
    lists = {}
    for name, token, step in (("owner", OWNER, 2), ("admin", ADMIN, 1)):
        key = hashlib.sha256(b"mac" + SECRET.encode()).digest()
        last = seal(key, "/items", 50 * step + step)
        for what, query in {
            "first page": {},
            "last page": {"cursor": last},
            "q, all match": {"q": "o"},
            "q, one matches": {"q": "rarity"},
        }.items():
            path = f"/items?{urlencode({'limit': 50, **query})}"
            lists[f"{what} ({name})"] = Operation(f"{what} ({name})", path, token=token)
    return [GET, POST, *lists.values()]


async def _measure(
    running: Running, operations: Iterable[Operation], items: Items, load: Load
) -> dict[str, Sample]:
    samples = {}
    for operation in operations:
        try:
            samples[operation.name] = await press(running, operation, items, load)
            print(f"{operation.name}: {samples[operation.name].cpu:.0f} µs")
        except Failed as failure:
            print(f"failed: {failure}")
    return samples


def _lines(costs: Costs) -> Iterable[list[str]]:
    for name in costs[min(costs)]:
        for size, samples in costs.items():
            if it := samples.get(name):
                yield [
                    *(name, f"{size:,}", f"{it.rate:,.0f}", f"{it.p50:.1f}", f"{it.p99:.1f}"),
                    *(f"{it.cpu:,.0f}", f"{it.database_cpu:,.0f}"),
                ]
            else:
                yield [name, f"{size:,}", "failed", *[""] * 4]


def _curves(costs: Costs) -> dict[str, dict[int, float]]:
    """For each operation, µs of CPU, the app's and the database's, by size."""
    curves: dict[str, dict[int, float]] = {}
    for size, samples in costs.items():
        for name, it in samples.items():
            curves.setdefault(name, {})[size] = it.cpu + it.database_cpu
    return curves


def _verdicts(rows: Costs) -> Iterable[str]:
    few, many = ROWS[0], ROWS[-1]
    curves = _curves(rows)
    for name, curve in curves.items():
        yield _verdict(f"{name}: {many:,} rows to {few:,}", curve.get(many, inf) / curve[few])
    for who in ("owner", "admin"):
        first, last = (curves[f"{which} page ({who})"][many] for which in ("first", "last"))
        yield _verdict(f"{who}: of {many:,} rows, the last page to the first", last / first)


def _verdict(what: str, factor: float) -> str:
    return f"- {what}: {factor:.2f}×, goal ≤ {MOST}×: {'met' if factor <= MOST else 'MISSED'}"


async def scale(url: str, folder: Path, load: Load, rounds: int) -> None:
    """Measure one and two workers. Nothing is pinned: wrk and Postgres take their share of both."""
    items = await fill(url, 100_000, 100)
    cpus, found = os.sched_getaffinity(0), defaultdict[tuple[str, int], list[Sample]](list)
    memory = {}
    for workers in (1, 2) * rounds:
        options = ("--workers", f"{workers}")
        async with serving(SERVICE, items.url, folder / "log", *options, cpus=cpus) as running:
            for name, sample in (await _measure(running, (GET, LIST, POST), items, load)).items():
                found[name, workers].append(sample)
            memory[workers] = [f"{running.memory(kind):.0f}" for kind in ("Rss", "Pss")]
    rates = {key: middle(samples).rate for key, samples in found.items()}
    lines = [
        [name, f"{workers}", f"{rate:,.0f}", f"{rate / rates[name, 1]:.2f}", *memory[workers]]
        for (name, workers), rate in rates.items()
    ]
    note = f"Not pinned: the workers, wrk and Postgres share {len(cpus)} cores."
    header = ("", "workers", "requests/s", "factor", "RSS MB of each", "PSS MB of each")
    keep("workers", note, markdown(header, lines))
