"""What a request costs: how often the service waits for the database.

Counted on the wire, so that nothing can hide: no ping, no reset, no BEGIN of a library's own.
"""

import asyncpg
import pytest
from pydantic import SecretStr

from kernel.settings import Settings
from kernel.testing.operations import Sampler, declared, lists, operations
from kernel.testing.tap import Tap
from kernel.tests.app import create_app

# A higher number is a slower service: think twice before writing it down. Where a slice's tests
# say COSTS, they are exact.
MOST = {"GET": 2, "POST": 5, "PUT": 5, "PATCH": 5, "DELETE": 5}
APP = create_app(Settings(_env_file=None))
OPERATIONS = list(operations(APP))
COSTS = declared(APP, "COSTS")


@pytest.fixture(scope="module")
async def tap(database_url):
    async with Tap(database_url).open() as tap:
        yield tap


@pytest.fixture(scope="module")
async def running_app(settings, tap):
    """The service, with the tap between it and its database."""
    app = create_app(settings.model_copy(update={"database_url": SecretStr(tap.url)}))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def sampler(running_app, admin):
    return Sampler(running_app, admin)


@pytest.fixture
def cost(tap, sampler):
    """Count what a request waits for, once its connections and statements are warm."""

    async def cost(operation, about=None):
        waits = []
        # One sign-in in 256 sweeps as well, so until two in a row agree.
        while len(waits) < 4 or (waits[-2] != waits[-1] and len(waits) < 8):
            url, body = about or await sampler.url(operation), await sampler.body(operation)
            before = tap.waits
            answer = await sampler.call(operation, url, body)
            waits.append(tap.waits - before)
            assert answer.is_success, answer.text
        assert waits[-2] == waits[-1]
        return waits[-1]

    return cost


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
async def test_an_operation_waits_no_more_often_than_this(cost, operation):
    waits = await cost(operation)
    if operation.name in COSTS:
        assert waits == COSTS[operation.name]
    else:
        assert waits <= MOST[operation.method]


def test_each_cost_has_its_operation():
    assert COSTS.keys() <= {each.name for each in OPERATIONS}


@pytest.mark.parametrize("operation", lists(APP), ids=str)
async def test_a_list_of_many_costs_what_a_list_of_one_costs(cost, sampler, operation):
    url = await sampler.url(operation)

    async def length():
        return len((await sampler.call(operation, url)).json()["items"])

    async def make(count):
        for _ in range(count):
            await sampler.call(sampler.operations["POST", operation.path], url)

    await make(1 - await length())  # of users, the admin is the first
    before = await length()
    few = await cost(operation, url)
    await make(19)
    assert await length() == before + 19 >= 20
    assert await cost(operation, url) == few


async def test_the_tap_counts_each_wait(tap):
    connection = await asyncpg.connect(tap.url)

    async def waits(run):
        before = tap.waits
        await run("SELECT 1")
        return tap.waits - before

    assert await waits(connection.fetchval) == 2  # the first time, it is prepared
    assert await waits(connection.fetchval) == 1
    assert await waits(connection.execute) == 1
    async with connection.transaction():
        assert await waits(connection.fetchval) == 1
    before = tap.waits
    async with connection.transaction():
        await connection.fetchval("SELECT 1")
    assert tap.waits - before == 3
    await connection.close()
