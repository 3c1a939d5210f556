"""The systems side by side: what each answer costs, at each number of connections."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from itertools import product
from pathlib import Path
from statistics import median

from kernel.tests.bench.alike import (
    BOUND,
    FASTAPI,
    GET,
    LAYOUT,
    LIST,
    LONG,
    POST,
    SERVICE,
    SYSTEMS,
    Waits,
    check,
)
from kernel.tests.bench.report import draw_bars, keep, markdown
from kernel.tests.bench.stage import Load, Operation, Sample, System, fill, press, serving

# At most so many times the bound, and so many times better than the layout. FastAPI by hand has to
# be behind us, whatever the operation and the number of connections.
GOALS = {GET: (1.7, 4.0), LIST: (1.5, 3.0), POST: (2.0, 3.0)}
FLAT = 1.3  # between the numbers of connections where an operation costs us most and least
HEADER = ("", "system", "c", "requests/s", "p50 ms", "p99 ms", "CPU µs", "÷ bound", "÷ ours",
          "round trips", "RSS MB")  # fmt: skip
# An operation, at so many connections, on a system.
Case = tuple[Operation, int, System]
Results = dict[Case, Sample]


async def compare(url: str, folder: Path, loads: Sequence[Load], rounds: int, only: str) -> None:
    """Measure each system in turn, round after round; print and keep the medians."""
    items = await fill(url, 100_000, 100)
    waits = await check(items, folder)
    operations = [each for each in GOALS if only in each.name]
    samples: dict[Case, list[Sample]] = defaultdict(list)
    for number, system in product(range(1, rounds + 1), SYSTEMS):
        async with serving(system, items.url, folder / "log") as running:
            for load, operation in product(_pressed(system, loads), operations):
                sample = await press(running, operation, items, load)
                samples[operation, load.connections, system].append(sample)
                what = f"{system.name} {operation.name} at {load.connections}"
                print(f"round {number}: {what}: {sample.cpu:.0f} µs")
    results = {case: middle(samples[case]) for case in sorted(samples, key=_place)}
    table = markdown(HEADER, _rows(results, waits))
    keep("comparison", _measured(loads, rounds), table, "\n".join(_verdicts(results)))
    first = loads[0].connections
    cpu = {o.name: {s.words: results[o, first, s].cpu for s in SYSTEMS} for o in operations}
    title = f"App CPU for each request at {first} connections, in µs: less is better"
    draw_bars("comparison", title, cpu)


def _pressed(system: System, loads: Sequence[Load]) -> Sequence[Load]:
    """The layout only at the first: it is far behind there already, and more would take long."""
    return loads[:1] if system is LAYOUT else loads


def _measured(loads: Sequence[Load], rounds: int) -> str:
    numbers = [f"{load.connections}" for load in loads]
    alone = f"; layout at {numbers[0]} only" if len(numbers) > 1 else ""
    seconds, connections = loads[0].seconds, ", ".join(numbers)
    return f"Medians of {rounds} rounds of {seconds} s, at {connections} connections (`c`){alone}."


def middle(samples: Iterable[Sample]) -> Sample:
    """The median of each figure."""
    return Sample(*map(median, zip(*map(astuple, samples), strict=True)))


def _place(case: Case) -> tuple[int, int, int]:
    operation, connections, system = case
    return [*GOALS].index(operation), connections, SYSTEMS.index(system)


def _rows(results: Results, waits: Waits) -> Iterable[list[str]]:
    for (operation, connections, system), it in results.items():
        bound, ours = (results[operation, connections, each].cpu for each in (BOUND, SERVICE))
        yield [
            *(operation.name, system.name, f"{connections}", f"{it.rate:,.0f}"),
            *(f"{it.p50:.1f}", f"{it.p99:.1f}"),
            *(f"{it.cpu:,.0f}", f"{it.cpu / bound:.2f}", f"{it.cpu / ours:.2f}"),
            *(f"{waits[operation, system]}", f"{it.memory:.0f}"),
        ]


def _verdicts(results: Results) -> Iterable[str]:
    for operation, (most, least) in GOALS.items():
        costs = {c: it.cpu for (o, c, s), it in results.items() if (o, s) == (operation, SERVICE)}
        for connections, ours in costs.items():
            behind = ours / results[operation, connections, BOUND].cpu
            told = [f"{behind:.2f}× the bound, goal ≤ {most}×: {_met(behind <= most)}"]
            before = results[operation, connections, FASTAPI].cpu / ours
            better = f"{before:.2f}× better than {FASTAPI.words}"
            told.append(f"{better}, goal > 1×: {_met(before > 1)}")
            without = results[operation, connections, LONG].cpu / ours
            told.append(f"{without:.2f}× without the short ways")
            if layout := results.get((operation, connections, LAYOUT)):
                ahead = layout.cpu / ours
                better = f"{ahead:.2f}× better than the layout"
                told.append(f"{better}, goal ≥ {least}×: {_met(ahead >= least)}")
            yield f"- {operation.name} at {connections} connections: {'; '.join(told)}"
        if len(costs) > 1:
            spread = max(costs.values()) / min(costs.values())
            what = f"{operation.name} from {min(costs)} to {max(costs)} connections"
            most_to_least = f"the most is {spread:.2f}× the least"
            yield f"- {what}: {most_to_least}, goal ≤ {FLAT}×: {_met(spread <= FLAT)}"


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"
