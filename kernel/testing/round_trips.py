"""The walk over round trips: how often an operation waits for the database.

They are counted on the wire, so that a library's ping, reset or BEGIN counts as well. A higher
number is a slower service. COSTS in a slice's tests are exact; without it, MOST is the limit.
"""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from kernel.settings import Settings
from kernel.testing.operations import Operation
from kernel.testing.pages import is_list
from kernel.testing.requests import fail
from kernel.testing.sampler import Sampler
from kernel.testing.suite import CreateApp
from kernel.testing.tap import Tap
from kernel.testing.walking import Walk, every

Cost = Callable[..., Awaitable[int]]
MOST = {"GET": 2, "POST": 5, "PUT": 5, "PATCH": 5, "DELETE": 5}


@pytest.fixture(scope="module")
async def tap(database_url: str) -> AsyncIterator[Tap]:
    async with Tap(database_url).open() as tap:
        yield tap


@pytest.fixture(scope="module")
async def running_app(
    settings: Settings, create_app: CreateApp, tap: Tap
) -> AsyncIterator[FastAPI]:
    """The service, with the tap between it and PostgreSQL."""
    app = create_app(settings.model_copy(update={"database_url": SecretStr(tap.url)}))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
def cost(tap: Tap, sampler: Sampler) -> Cost:
    """The number of round trips of a request, with open connections and prepared statements."""

    async def cost(operation: Operation, about: str | None = None) -> int:
        waits: list[int] = []
        # One sign-in in 256 also deletes old rows: repeat until two requests in a row agree.
        while len(waits) < 4 or (waits[-2] != waits[-1] and len(waits) < 8):
            request = await sampler.prepare(operation, about)
            before = tap.waits
            answer = await sampler.send(request)
            waits.append(tap.waits - before)
            if not answer.is_success:
                fail(operation, answer, "success for a valid request")
        assert waits[-2] == waits[-1], f"{operation.title} waits {waits} times for the database"
        return waits[-1]

    return cost


@every()
async def test_an_operation_waits_no_more_often_than_this(cost: Cost, operation: Operation) -> None:
    waits, exact, most = await cost(operation), operation.hook("COSTS"), MOST[operation.method]
    message = f"{operation.title} waits {waits} times for the database\nExpected: "
    if exact is not None:
        file = operation.hooks.file
        assert waits == exact, f"{message}{exact}, as COSTS in {file} says"
    else:
        advice = operation.advise("COSTS", str(waits))
        assert waits <= most, f"{message}at most {most}; if it is worth it, {advice}"


def test_each_cost_has_its_operation(walk: Walk) -> None:
    assert walk.strays("COSTS") == []


@every(is_list)
async def test_a_list_of_many_costs_what_a_list_of_one_costs(
    cost: Cost, sampler: Sampler, operation: Operation
) -> None:
    path = (await sampler.prepare(operation)).path

    async def length() -> int:
        return len((await sampler.call(operation, path)).json()["items"])

    async def make(count: int) -> None:
        for _ in range(count):
            create = sampler.operations["POST", operation.path]
            answer = await sampler.call(create, path)
            if not answer.is_success:
                fail(create, answer, f"a new row for {operation.title}")

    await make(1 - await length())  # of users, the admin is the first
    before = await length()
    few = await cost(operation, path)
    await make(19)
    assert await length() == before + 19 >= 20, f"{operation.title} does not show what was made"
    many = await cost(operation, path)
    assert many == few, f"{operation.title} waits {few} times for one row, {many} for twenty"
