"""The three systems side by side: that they answer alike, and what each answer costs."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from statistics import median

import httpx

from tests.bench.report import draw_bars, keep, markdown
from tests.bench.stage import Items, Load, Operation, Sample, System, fill, press, serving
from tests.tap import Tap

SERVICE = System("julienne", "Julienne", "service:app")
SYSTEMS = [
    System("bound", "by hand", "tests.bench.bound:app", ("--no-access-log",)),
    SERVICE,
    System("layout", "published layout", "tests.bench.layout:app"),
]
GET = Operation("GET one", "/items/{id}")
LIST = Operation("list of 50", "/items?limit=50")
POST = Operation("POST", "/items", '{"title": "Soup", "description": "With leek"}')
NEXT = Operation("next page", "/items?limit=50&cursor={cursor}")
CHECKED = [
    *(LIST, NEXT, GET, POST),
    *(Operation("no token", "/items", token="x"), Operation("not theirs", "/items/1")),
]
# At most so many times the bound, and so many times better than the layout.
GOALS = {GET: (1.6, 4.0), LIST: (1.4, 3.0), POST: (2.5, 3.0)}
HEADER = ("", "system", "requests/s", "p50 ms", "p99 ms", "CPU µs", "÷ bound", "÷ ours",
          "round trips", "RSS MB")  # fmt: skip
Results = dict[tuple[Operation, System], Sample]
Waits = dict[tuple[Operation, System], int]


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


async def check(items: Items, folder: Path) -> Waits:
    """See that the systems answer alike, and count how often each waits for the database.

    Raises:
        SystemExit: they do not.
    """
    waits, answers = {}, {}
    for system in SYSTEMS:
        async with (
            Tap(items.url).open() as tap,
            serving(system, tap.url, folder / "log") as running,
            httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
        ):
            cursor = ""
            for operation in CHECKED:
                path = operation.path.format(id=items.step, cursor=cursor)
                for _ in range(4):  # until its connections and statements are warm
                    before = tap.waits
                    answer = await client.request(
                        operation.method, path, content=operation.body, headers=operation.headers
                    )
                    await asyncio.sleep(0.05)  # some still talk to it when they have answered
                    waits[operation, system] = tap.waits - before
                answers[operation, system] = _shared(operation, answer)
                cursor = answer.json().get("next_cursor") or cursor
        await items.forget_created()
    for (operation, system), theirs in answers.items():
        first = answers[operation, SYSTEMS[0]]
        if theirs != first:
            told = f"{system.name} answers\n{theirs}\nand {SYSTEMS[0].name}\n{first}"
            raise SystemExit(f"{operation.name}: {told}")
    return waits


def _shared(operation: Operation, answer: httpx.Response) -> object:
    """What of an answer is every system's, and not its own: its cursors, its words for errors."""
    body = answer.json()
    if answer.is_error:
        return answer.status_code
    own = {"id", "created_at", "updated_at"} if operation is POST else {"next_cursor"}
    return answer.status_code, body | dict.fromkeys(own & set(body))


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
