"""Who may do what: every operation and every kind of caller."""

import pytest
import time_machine

from kernel.settings import Settings
from kernel.testing.operations import Sampler, declared, holds, operations
from kernel.tests.app import create_app

APP = create_app(Settings(_env_file=None))
OPERATIONS = {each.name: each for each in operations(APP)}

OPEN = {"nobody": 2, "owner": 2, "other": 2, "admin": 2, "key": 2, "expired": 2, "deactivated": 2}
SIGNED_IN = OPEN | {"nobody": 401, "expired": 401, "deactivated": 401}
# What each caller gets under a rule: a status, or 2 for any success. `owner` has made the row that
# the path names, and `key` is an API key of the owner.
OUTCOMES = {
    "open": OPEN,
    "signed_in": SIGNED_IN,
    "owner_or_admin": SIGNED_IN | {"other": 404},
    "owner": SIGNED_IN | {"other": 404, "admin": 404},
    "admin": SIGNED_IN | {"owner": 403, "other": 403, "key": 403},
}
# Each slice's tests say who may do what.
RULES = declared(APP, "RULES")
RULES_OUTSIDE_DEV = declared(APP, "RULES_OUTSIDE_DEV")


@pytest.fixture
async def callers(sign_up, client, sql):
    """One caller of each kind, by its name in the table."""
    owner, deactivated = await sign_up("Owner"), await sign_up("Deactivated")
    await sql.execute("UPDATE users SET is_active = false WHERE id = $1", deactivated.user_id)
    key = (await owner.post("/keys", json={"name": "Robot"})).json()["key"]
    with time_machine.travel("2020-01-01"):
        expired = await sign_up("Expired")
    return {
        "nobody": client.headers,
        "owner": owner.headers,
        "other": (await sign_up("Other")).headers,
        "admin": (await sign_up("Admin", "admin")).headers,
        "key": {"X-API-Key": key},
        "expired": expired.headers,
        "deactivated": deactivated.headers,
    } | {"_owner": owner}


def test_each_operation_has_its_rule_and_each_rule_its_operation():
    assert RULES.keys() == OPERATIONS.keys()
    assert RULES_OUTSIDE_DEV.keys() <= OPERATIONS.keys()


@pytest.mark.parametrize("name", RULES)
async def test_a_caller_gets_what_the_rule_says(app, client, callers, name):
    assert await outcome(app, client, callers, name) == OUTCOMES[RULES[name]]


@pytest.mark.parametrize("name", RULES_OUTSIDE_DEV)
async def test_a_caller_gets_what_the_rule_says_outside_dev(app, serve, callers, name):
    async with serve(env="prod") as client:
        assert await outcome(app, client, callers, name) == OUTCOMES[RULES_OUTSIDE_DEV[name]]


async def outcome(app, client, callers, name):
    """What each caller gets, each with a row that was made for it."""
    operation, owner = OPERATIONS[name], callers["_owner"]
    sampler, got = Sampler(app, owner), {}
    for kind, headers in callers.items():
        if kind != "_owner":
            body = await sampler.body(operation)
            url, content = await sampler.url(operation), operation.content(body)
            answer = await client.request(operation.method, url, headers=headers, **content)
            holds(operation, answer)
            got[kind] = 2 if answer.is_success else answer.status_code
    return got
