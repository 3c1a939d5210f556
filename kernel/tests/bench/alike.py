"""The systems to compare, and that they are alike: the same answers to the same requests."""

import asyncio
from pathlib import Path

import httpx

from kernel.testing.tap import Tap
from kernel.tests.bench.stage import Failed, Items, Operation, System, serving

BOUND = System("bound", "by hand", "kernel.tests.bench.bound:app", ("--no-access-log",))
SERVICE = System("julienne", "Julienne", "service:app")
LONG = System("long way", "without short ways", "kernel.tests.bench.long_way:app")
FASTAPI = System(
    "FastAPI by hand",
    "FastAPI by hand",
    "kernel.tests.bench.fastapi_by_hand:app",
    ("--no-access-log",),
)
LAYOUT = System("layout", "published layout", "kernel.tests.bench.layout:app")
SYSTEMS = [BOUND, SERVICE, LONG, FASTAPI, LAYOUT]
GET = Operation("GET one", "/items/{id}")
LIST = Operation("list of 50", "/items?limit=50")
POST = Operation("POST", "/items", '{"title": "Soup", "description": "With leek"}')
NEXT = Operation("next page", "/items?limit=50&cursor={cursor}")
CHECKED = [
    *(LIST, NEXT, GET, POST),
    *(Operation("no token", "/items", token="x"), Operation("not theirs", "/items/1")),
]
Waits = dict[tuple[Operation, System], int]


async def check(items: Items, folder: Path) -> Waits:
    """See that the systems answer alike, and count how often each waits for the database.

    Raises:
        Failed: they do not.
    """
    waits, answers = {}, {}
    for system in SYSTEMS:
        async with (
            Tap(items.url).open() as tap,
            # Jobs would look for work in between.
            serving(system, tap.url, folder / "log", jobs="off") as running,
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
            raise Failed(f"{operation.name}: {told}")
    return waits


def _shared(operation: Operation, answer: httpx.Response) -> object:
    """What of an answer is every system's, and not its own: its cursors, its words for errors."""
    body = answer.json()
    if answer.is_error:
        return answer.status_code
    own = {"id", "created_at", "updated_at"} if operation is POST else {"next_cursor"}
    return answer.status_code, body | dict.fromkeys(own & set(body))
