"""The walk over lists: pages are complete and bounded, and their cursors cannot be forged."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from kernel.testing.asking import (  # noqa: F401  # fixtures of the modules that import all of this
    all_of,
    mismatch,
    password_hash,
    running_app,
)
from kernel.testing.instruments import Ask
from kernel.testing.operations import Operation
from kernel.testing.requests import Request, fail
from kernel.testing.sampler import Sampler
from kernel.testing.walking import every

Fill = Callable[[Request, int], Awaitable[None]]
MANY = 20


def is_list(operation: Operation) -> bool:
    return operation.is_list


@pytest.fixture
async def fill(sampler: Sampler) -> Fill:
    """Make rows, by the POST of the list's path."""

    async def fill(listing: Request, count: int) -> None:
        create = sampler.operations["POST", listing.operation.path]
        answers = await all_of([sampler.call(create, listing.path) for _ in range(count)])
        for answer in answers:
            if not answer.is_success:
                fail(create, answer, f"a new row for {listing.operation.title}")

    return fill


def orders(operation: Operation) -> list[str | None]:
    """The values of the list's parameter `order`, or None alone where it has none."""
    values: list[str | None] = operation.parameters("query").get("order", {}).get("enum", [None])
    return values


async def page(ask: Ask, listing: Request, **params: Any) -> dict[str, Any]:
    params = {name: value for name, value in params.items() if value is not None}
    answer = await ask(listing, params={**listing.params, **params})
    assert answer.status_code == 200, mismatch(listing, answer, "200, a page")
    body: dict[str, Any] = answer.json()
    return body


def key(row: dict[str, Any]) -> str:
    """The row's id, or the whole row as a text, to compare rows by."""
    return str(row.get("id", row))


@every(is_list)
async def test_pages_are_complete_and_stay_so_while_rows_come(
    sampler: Sampler, ask: Ask, fill: Fill, operation: Operation
) -> None:
    listing = await sampler.prepare(operation)
    await fill(listing, 12)
    for order in orders(operation):
        whole = await page(ask, listing, order=order, limit=100)
        number = len(whole["items"])
        assert number >= 12, (
            f"{operation.title} shows {number} of 12 rows that {operation.hooks.file} has made for"
            f" its caller; if they have to be made otherwise, SAMPLES can say so of the POST"
        )
        seen: list[str] = []
        cursor = None
        while not seen or cursor:
            part = await page(ask, listing, order=order, limit=5, cursor=cursor)
            seen += [key(row) for row in part["items"]]
            cursor = part["next_cursor"]
            await fill(listing, 1)
        keys = [key(row) for row in whole["items"]]
        assert [shown for shown in seen if shown in keys] == keys, f"{operation.title} by {order}"
        assert len(set(seen)) == len(seen), f"{operation.title} by {order} shows a row twice"


@every(is_list)
async def test_a_page_is_bounded(
    sampler: Sampler, ask: Ask, fill: Fill, operation: Operation
) -> None:
    listing = await sampler.prepare(operation)
    await fill(listing, 2)
    most = operation.parameters("query")["limit"]["maximum"]
    for limit in (0, -1, most + 1, 2**63, "x", ""):
        answer = await ask(listing, params={**listing.params, "limit": limit})
        assert answer.status_code == 422, mismatch(listing, answer, "422", f"limit={limit}")
    assert len((await page(ask, listing, limit=1))["items"]) == 1, operation.title
    await page(ask, listing, limit=most)


@every(is_list)
async def test_a_forged_cursor_is_refused(
    sampler: Sampler, ask: Ask, fill: Fill, operation: Operation
) -> None:
    listing = await sampler.prepare(operation)
    await fill(listing, 2)
    cursor = (await page(ask, listing, limit=1))["next_cursor"]
    forged = [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in (0, 9)]
    for bad in (*forged, cursor[1:], cursor[:-5], cursor * 2, "x", ""):
        answer = await ask(listing, params={**listing.params, "cursor": bad})
        assert answer.status_code == 422, mismatch(listing, answer, "422", f"cursor={bad}")


@every(is_list)
async def test_a_list_of_many_takes_as_many_queries_as_a_list_of_one(
    sampler: Sampler, ask: Ask, fill: Fill, operation: Operation
) -> None:
    listing = await sampler.prepare(operation)
    await fill(listing, 1)
    few = await ask(listing)
    await fill(listing, MANY - 1)
    many = await ask(listing)
    assert len(many.json()["items"]) >= MANY, operation.title
    assert queries(few) == queries(many), (
        f"{operation.title} makes {queries(many)} for a list of {MANY}\n"
        f"Expected: {queries(few)}, as for a list of one: join, or fetch what belongs to the rows"
        " of a page in one query"
    )


def queries(answer: httpx.Response) -> str:
    return answer.headers["server-timing"].split('desc="')[1].split('"')[0]
