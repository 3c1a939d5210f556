"""The walk over authorization: every operation, called by every kind of caller.

Each slice's tests give the rule of every operation: `RULES = {"create_item": "signed_in"}`.
"""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import time_machine
from fastapi import FastAPI

from kernel.testing.callers import Caller
from kernel.testing.fixtures import Connection, Serve, SignUp
from kernel.testing.matrix import SEEN
from kernel.testing.operations import Operation
from kernel.testing.requests import holds
from kernel.testing.sampler import Sampler
from kernel.testing.walking import Walk, every

Outcomes = dict[str, Any]
Record = Callable[[str, object], None]
OPEN = {"nobody": 2, "owner": 2, "other": 2, "admin": 2, "key": 2, "expired": 2, "deactivated": 2}
SIGNED_IN = OPEN | {"nobody": 401, "expired": 401, "deactivated": 401}
PERSON = SIGNED_IN | {"key": 403}
OF_KINDS = ("member", "admin")  # the roles of the callers above
# What each caller gets under a rule: a status, or 2 for any success. `owner` has made the row that
# the path names, and `key` is an API key of the owner.
OUTCOMES: dict[str, Outcomes] = {
    "open": OPEN,
    "signed_in": SIGNED_IN,
    "person": PERSON,
    "owner_or_admin": SIGNED_IN | {"other": 404},
    "owner": SIGNED_IN | {"other": 404, "admin": 404},
    "admin": SIGNED_IN | {"owner": 403, "other": 403, "key": 403},
}
# The roles that an account may have.
ROLES = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'ck_users_role'"
ADVICE = f"one of {', '.join(OUTCOMES)}, or a dict of outcomes"


class Cast:
    """One caller of each kind, by its name in the table, and further ones by their role: `roles`
    are those of the service beside the two that it ships with."""

    def __init__(self, owner: Caller, admin: Caller, sign_up: SignUp, roles: list[str]) -> None:
        self.owner, self.admin, self._sign_up, self.roles = owner, admin, sign_up, roles
        self.headers: dict[str, Any] = {"owner": owner.headers, "admin": admin.headers}

    async def of(self, kind: str) -> Any:
        """The headers of a caller of this kind or role; the first call makes its account."""
        if kind not in self.headers:
            self.headers[kind] = (await self._sign_up(kind.title(), kind)).headers
        return self.headers[kind]


@pytest.fixture
async def cast(
    app: FastAPI, sign_up: SignUp, client: httpx.AsyncClient, sql: "Connection[Any]"
) -> Cast:
    owner, deactivated = await sign_up("Owner"), await sign_up("Deactivated")
    await sql.execute("UPDATE users SET is_active = false WHERE id = $1", deactivated.user_id)
    constraint = await sql.fetchval(ROLES) or ""
    roles = [role for role in re.findall("'([^']+)'", constraint) if role not in OF_KINDS]
    cast = Cast(owner, await sign_up("Admin", "admin"), sign_up, roles)
    with time_machine.travel("2020-01-01"):
        expired = await sign_up("Expired")
    cast.headers |= {
        "nobody": client.headers,
        "other": (await sign_up("Other")).headers,
        "expired": expired.headers,
        "deactivated": deactivated.headers,
    }
    if "/keys" in app.openapi()["paths"]:
        key = (await owner.post("/keys", json={"name": "Robot"})).json()["key"]
        cast.headers["key"] = {"X-API-Key": key}
    return cast


def outcomes(operation: Operation, hook: str = "RULES") -> Outcomes:
    """The status, or 2 for any success, that each kind of caller gets by the operation's rule.

    Raises:
        AssertionError: the slice's tests give no rule, or one of an unknown name.
    """
    rule: Any = operation.hook(hook)
    overrides: Outcomes = {}
    if isinstance(rule, dict):
        overrides = {kind: expected for kind, expected in rule.items() if kind != "like"}
        rule = rule.get("like")
    if rule is None and overrides.keys() >= OPEN.keys():
        return overrides
    advice = operation.advise(hook, f'"signed_in"  # {ADVICE}')
    assert rule is not None, f"{operation.title} has no rule: {advice}"
    assert rule in OUTCOMES, f"{operation.title}: unknown rule {rule!r}: {advice}"
    return OUTCOMES[rule] | overrides


def role_for(operation: Operation) -> str:
    """The role that the walks call the operation with: admin, or another one that its rule allows
    where admins get 403."""
    rule = operation.hook("RULES")
    if not isinstance(rule, dict) or rule.get("admin") != 403:
        return "admin"
    allowed = [kind for kind, outcome in rule.items() if outcome == 2 and kind not in OPEN]
    return allowed[0] if allowed else "admin"


def outside_dev(operation: Operation) -> bool:
    return operation.hook("RULES_OUTSIDE_DEV") is not None


@every()
def test_each_operation_has_its_rule(operation: Operation) -> None:
    assert outcomes(operation)


def test_each_rule_has_its_operation(walk: Walk) -> None:
    assert walk.strays("RULES", "RULES_OUTSIDE_DEV") == []


@every()
@pytest.mark.usefixtures("fake_http")
async def test_a_caller_gets_what_the_rule_says(
    app: FastAPI,
    client: httpx.AsyncClient,
    cast: Cast,
    operation: Operation,
    record_property: Record,
) -> None:
    record_property(SEEN, [operation.title, await obeys(app, client, cast, operation, "RULES")])


@every(outside_dev)
@pytest.mark.usefixtures("fake_http")
async def test_a_caller_gets_what_the_rule_says_outside_dev(
    app: FastAPI,
    serve: Serve,
    cast: Cast,
    operation: Operation,
    record_property: Record,
) -> None:
    async with serve(env="prod") as client:
        seen = await obeys(app, client, cast, operation, "RULES_OUTSIDE_DEV")
    record_property(SEEN, [f"{operation.title} outside dev", seen])


async def obeys(
    app: FastAPI, client: httpx.AsyncClient, cast: Cast, operation: Operation, hook: str
) -> dict[str, int]:
    """Call the operation as each kind of caller, each time on a new row, and return the statuses.

    A role that the rule does not name is expected to get what `other` gets.

    Raises:
        AssertionError: a caller got another status than the rule says.
    """
    sampler, wrong, seen = Sampler(app, cast.owner, cast.admin), [], {}
    rule = outcomes(operation, hook)
    for kind, expected in (dict.fromkeys(cast.roles, rule["other"]) | rule).items():
        if kind == "key" and kind not in cast.headers:
            continue  # a service without API keys
        request = await sampler.prepare(operation)
        arguments = request.arguments()
        arguments["headers"] |= dict(await cast.of(kind))
        answer = await client.request(operation.method, request.url, **arguments)
        holds(operation, answer)
        seen[kind] = answer.status_code
        if expected not in (answer.status_code, 2 * answer.is_success):
            wanted = "success" if expected == 2 else expected
            wrong.append(f"{kind}: expected {wanted}, got {answer.status_code} {answer.text[:150]}")
    advice = operation.advise(hook, f"...  # {ADVICE}")
    assert not wrong, "\n".join([f"{operation.title} does not keep to its rule.", *wrong, advice])
    return seen
