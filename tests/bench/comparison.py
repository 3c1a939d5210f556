"""The three systems side by side: what each answer costs."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from statistics import median

from tests.bench.alike import GET, LIST, POST, SERVICE, SYSTEMS, Waits, check
from tests.bench.report import draw_bars, keep, markdown
from tests.bench.stage import Load, Operation, Sample, System, fill, press, serving

# At most so many times the bound, and so many times better than the layout.
GOALS = {GET: (1.6, 4.0), LIST: (1.4, 3.0), POST: (2.5, 3.0)}
HEADER = ("", "system", "requests/s", "p50 ms", "p99 ms", "CPU µs", "÷ bound", "÷ ours",
          "round trips", "RSS MB")  # fmt: skip
Results = dict[tuple[Operation, System], Sample]


async def compare(url: str, folder: Path, load: Load, rounds: int, only: str) -> None:
    """Measure each system in turn, round after round; print and keep the medians."""
    items = await fill(url, 100_000, 100)
    waits = await check(items, folder)
    operations = [each for each in GOALS if only in each.name]
    samples: dict[tuple[Operation, System], list[Sample]] = defaultdict(list)
    memory: dict[System, list[float]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for system in SYSTEMS:
            async with serving(system, items.url, folder / "log") as running:
                for operation in operations:
                    sample = await press(running, operation, items, load)
                    samples[operation, system].append(sample)
                    print(f"round {number}: {system.name} {operation.name} {sample.cpu:.0f} µs")
                memory[system].append(running.memory("Rss"))
    results = {key: middle(samples[key]) for key in sorted(samples, key=_place)}
    sizes = {system: median(found) for system, found in memory.items()}
    table = markdown(HEADER, _rows(results, waits, sizes))
    what = f"Medians of {rounds} rounds of {load.seconds} s, {load.connections} connections."
    keep("comparison", what, table, "\n".join(_verdicts(results)))
    cpu = {o.name: {s.words: results[o, s].cpu for s in SYSTEMS} for o in operations}
    draw_bars("comparison", "App CPU for each request, in µs: less is better", cpu)


def middle(samples: Iterable[Sample]) -> Sample:
    """The median of each figure."""
    return Sample(*map(median, zip(*map(astuple, samples), strict=True)))


def _place(key: tuple[Operation, System]) -> tuple[int, int]:
    return [*GOALS].index(key[0]), SYSTEMS.index(key[1])


def _rows(results: Results, waits: Waits, sizes: dict[System, float]) -> Iterable[list[str]]:
    for (operation, system), it in results.items():
        bound, ours = results[operation, SYSTEMS[0]].cpu, results[operation, SERVICE].cpu
        yield [
            *(operation.name, system.name, f"{it.rate:,.0f}", f"{it.p50:.1f}", f"{it.p99:.1f}"),
            *(f"{it.cpu:,.0f}", f"{it.cpu / bound:.2f}", f"{it.cpu / ours:.2f}"),
            *(f"{waits[operation, system]}", f"{sizes[system]:.0f}"),
        ]


def _verdicts(results: Results) -> Iterable[str]:
    for operation, (most, least) in GOALS.items():
        if (operation, SERVICE) in results:
            bound, ours, layout = (results[operation, system].cpu for system in SYSTEMS)
            behind, ahead = ours / bound, layout / ours
            yield (
                f"- {operation.name}: {behind:.2f}× the bound,"
                f" goal ≤ {most}×: {'met' if behind <= most else 'MISSED'};"
                f" {ahead:.2f}× better than the layout,"
                f" goal ≥ {least}×: {'met' if ahead >= least else 'MISSED'}"
            )
