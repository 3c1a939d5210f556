"""Who may do what: every operation and every kind of caller, in one table."""

from importlib import import_module

import pytest
import time_machine

from features.kernel.settings import ROOT, Settings
from service import create_app
from tests.operations import Sampler, operations

OPERATIONS = {each.name: each for each in operations(create_app(Settings(_env_file=None)))}

OPEN = {"nobody": 2, "owner": 2, "other": 2, "admin": 2, "key": 2, "expired": 2, "deactivated": 2}
SIGNED_IN = OPEN | {"nobody": 401, "expired": 401, "deactivated": 401}
OWNERS_OR_ADMINS = SIGNED_IN | {"other": 404}
OWNERS = SIGNED_IN | {"other": 404, "admin": 404}
ADMINS = SIGNED_IN | {"owner": 403, "other": 403, "key": 403}

# What each caller gets: a status, or 2 for any success. `owner` has made the row that the path
# names, and `key` is an API key of the owner. A new operation needs a line here.
RULES = {
    "get_liveness": OPEN,
    "get_readiness": OPEN,
    "create_token": OPEN,
    "refresh_token": OPEN,
    "sign_out": OPEN,
    "create_key": SIGNED_IN,
    "list_keys": SIGNED_IN,
    "delete_key": OWNERS,
    "create_user": OPEN,
    "list_users": SIGNED_IN,
    "get_me": SIGNED_IN,
    "update_me": SIGNED_IN,
    "get_user": SIGNED_IN,
    "update_user": ADMINS,
    "delete_user": ADMINS,
    "create_item": SIGNED_IN,
    "list_items": SIGNED_IN,
    "get_item": OWNERS_OR_ADMINS,
    "update_item": OWNERS_OR_ADMINS,
    "delete_item": OWNERS_OR_ADMINS,
}
WORDS = {"open": OPEN, "signed_in": SIGNED_IN, "owner_or_admin": OWNERS_OR_ADMINS}
WORDS |= {"owner": OWNERS, "admin": ADMINS}
for path in sorted((ROOT / "features").glob("*/test_*.py")):
    module = import_module(f"features.{path.parent.name}.{path.stem}")
    RULES |= {name: WORDS[word] for name, word in getattr(module, "RULES", {}).items()}
RULES = {name: rule for name, rule in RULES.items() if name in OPERATIONS}
OUTSIDE_DEV = {"create_user": ADMINS | {"nobody": 401}}


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


@pytest.mark.parametrize("name", RULES)
async def test_a_caller_gets_what_the_rule_says(app, client, callers, name):
    assert await outcome(app, client, callers, name) == RULES[name]


@pytest.mark.parametrize("name", OUTSIDE_DEV)
async def test_a_caller_gets_what_the_rule_says_outside_dev(app, serve, callers, name):
    async with serve(env="prod") as client:
        assert await outcome(app, client, callers, name) == OUTSIDE_DEV[name]


async def outcome(app, client, callers, name):
    """What each caller gets, each with a row that was made for it."""
    operation, owner = OPERATIONS[name], callers["_owner"]
    sampler, got = Sampler(app, owner), {}
    for kind, headers in callers.items():
        if kind != "_owner":
            body = await sampler.body(operation)
            content = {} if body is None else {"data" if operation.is_form else "json": body}
            url = await sampler.url(operation)
            answer = await client.request(operation.method, url, headers=headers, **content)
            got[kind] = 2 if answer.is_success else answer.status_code
    return got


def test_each_operation_declares_the_refusals_of_its_rule():
    for name, rule in (*RULES.items(), *OUTSIDE_DEV.items()):
        declared = {int(status) for status in OPERATIONS[name].spec["responses"]}
        assert {status for status in rule.values() if status != 2} <= declared, name
