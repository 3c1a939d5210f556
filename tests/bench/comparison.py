"""The three systems side by side: that they answer alike, and what each answer costs."""

import json
from collections import defaultdict
from dataclasses import astuple
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from tests.bench.stage import (
    OWNER,
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
from tests.tap import Tap

SYSTEMS = [
    System("bound", "tests.bench.bound:app", ("--no-access-log",)),
    System("julienne", "service:app"),
    System("layout", "tests.bench.layout:app"),
]
OPERATIONS = [
    Operation("get", "GET", "/items/{id}"),
    Operation("list", "GET", "/items?limit=50"),
    Operation("create", "POST", "/items", '{"title": "Soup", "description": "With leek"}'),
]
# At most so many times the bound, and so many times better than the layout.
GOALS = {"get": (1.6, 4.0), "list": (1.4, 3.0), "create": (2.5, 3.0)}
# What differs though the answers are alike: a row's own, and a cursor, which is each system's word.
OWN = ("id", "created_at", "updated_at")


async def compare(url: str, folder: Path, load: Load, rounds: int, only: str) -> None:
    items = await fill(url, 100_000, 100)
    waits = await round_trips(items, folder)
    operations = [each for each in OPERATIONS if each.name in (only or each.name).split(",")]
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    memory: dict[str, list[int]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for system in SYSTEMS:
            async with serving(system, items.url, folder / f"{system.name}.log") as running:
                for operation in operations:
                    sample = await press(running, operation, items, load)
                    samples[system.name, operation.name].append(sample)
                    print(f"round {number}: {system.name} {operation.name} {sample.cpu:.0f} µs")
                memory[system.name] += running.memory("Rss")
    results = {
        key: Sample(*map(median, zip(*map(astuple, found), strict=True)))
        for key, found in samples.items()
    }
    print(table(results, waits, {name: median(found) for name, found in memory.items()}))
    print(goals(results))


async def round_trips(items: Items, folder: Path) -> dict[tuple[str, str], int]:
    """How often each system waits for the database, once it has been seen to answer right."""
    waits = {}
    answers: dict[str, list[Any]] = defaultdict(list)
    for system in SYSTEMS:
        async with (
            Tap(items.url).open() as tap,
            serving(system, tap.url, folder / "tapped.log") as running,
            _client(running) as client,
        ):
            for operation in OPERATIONS:
                for _ in range(4):
                    before = tap.waits
                    answer = await ask(client, operation, items.step)
                    waits[system.name, operation.name] = tap.waits - before
                answers[operation.name].append(answer)
            answers["401"].append(
                (await client.get("/items", headers={"Authorization": ""})).status_code
            )
            answers["404"].append((await client.get(f"/items/{items.step + 1}")).status_code)
            answers["next"].append(await following(client))
        await items.forget_created()
    for name, (first, *others) in answers.items():
        if any(other != first for other in others):
            shown = "\n".join(f"{answer}"[:300] for answer in (first, *others))
            raise SystemExit(f"the systems do not answer {name!r} alike:\n{shown}")
    return waits


def _client(running: Running) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {OWNER}"}
    return httpx.AsyncClient(base_url=running.url, headers=headers, trust_env=False)


async def ask(client: httpx.AsyncClient, operation: Operation, row_id: int) -> Any:
    path = operation.path.format(id=row_id)
    headers = {"Content-Type": "application/json"} if operation.body else {}
    answer = await client.request(operation.method, path, content=operation.body, headers=headers)
    body = answer.json()
    if operation.method == "POST":
        body = {key: type(value) if key in OWN else value for key, value in body.items()}
    if "next_cursor" in body:
        body["next_cursor"] = type(body["next_cursor"])
    return answer.status_code, body


async def following(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The items of the second page."""
    cursor = (await client.get("/items")).json()["next_cursor"]
    found: list[dict[str, Any]] = (await client.get("/items", params={"cursor": cursor})).json()[
        "items"
    ]
    return found


def table(
    results: dict[tuple[str, str], Sample],
    waits: dict[tuple[str, str], int],
    memory: dict[str, float],
) -> str:
    lines = [
        "| | system | requests/s | p50 ms | p99 ms | CPU µs | ÷ bound | round trips | memory MB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (system, operation), s in sorted(results.items(), key=lambda r: [*GOALS].index(r[0][1])):
        ratio = s.cpu / results["bound", operation].cpu
        lines.append(
            f"| {operation} | {system} | {s.rate:,.0f} | {s.p50:.1f} | {s.p99:.1f} | {s.cpu:,.0f}"
            f" | {ratio:.2f} | {waits[system, operation]} | {memory[system] / 1024:.0f} |"
        )
    return "\n".join(lines)


def goals(results: dict[tuple[str, str], Sample]) -> str:
    lines = []
    for operation, (most, least) in GOALS.items():
        if ("julienne", operation) not in results:
            continue
        bound, ours, layout = (results[s.name, operation].cpu for s in SYSTEMS)
        lines.append(
            f"{operation}: {ours / bound:.2f} × the bound (goal ≤ {most}:"
            f" {'met' if ours / bound <= most else 'MISSED'}),"
            f" {layout / ours:.2f} × better than the layout (goal ≥ {least}:"
            f" {'met' if layout / ours >= least else 'MISSED'})"
        )
    return "\n".join(lines)
