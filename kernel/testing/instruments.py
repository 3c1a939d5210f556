"""Fixtures of the walks, also for slices' tests: valid requests, all rows, other services."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from kernel.testing import upstreams
from kernel.testing.authorization import role_for
from kernel.testing.callers import Caller
from kernel.testing.fixtures import Connection, SignUp
from kernel.testing.hooks import all_hooks
from kernel.testing.requests import Request, describe, holds
from kernel.testing.sampler import Sampler
from kernel.testing.upstreams import Upstreams
from kernel.testing.walking import Walk, walk_of

Ask = Callable[..., Awaitable[httpx.Response]]
Rows = Callable[[], Awaitable[dict[str, set[str]]]]
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"


@pytest.fixture
def fake_http(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstreams]:
    """The answers of other services: UPSTREAMS of the mounted slices, and what a test adds:
    `fake_http["https://rates.example/"] = {"EUR": 1}`. A request to any other URL fails."""
    fakes = Upstreams(all_hooks(app))
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", _ask(fakes))
    upstreams.unanswered.clear()
    yield fakes
    upstreams.unanswered.clear()


def _ask(fakes: Upstreams) -> Callable[..., Awaitable[httpx.Response]]:
    async def ask(
        transport: httpx.AsyncHTTPTransport, request: httpx.Request
    ) -> httpx.Response:  # a function, which becomes a method
        return await fakes.answer(transport, request)

    return ask


@pytest.fixture
def make(app: FastAPI, admin: Caller) -> Callable[[str], Any]:
    """Make a valid row of a collection, as an admin: `row = await make("/items")`."""
    sampler = Sampler(app, admin)

    async def make(collection: str) -> dict[str, Any]:
        answer = await sampler.call(sampler.operations["POST", collection])
        row: dict[str, Any] = answer.raise_for_status().json()
        return row

    return make


# Mostly for the walks.


@pytest.fixture
def walk(request: pytest.FixtureRequest) -> Walk:
    """The walk of this folder: its app and operations."""
    return walk_of(request.node)


@pytest.fixture
async def sampler(
    request: pytest.FixtureRequest, app: FastAPI, sign_up: SignUp, fake_http: Upstreams
) -> Sampler:
    """Calls operations with valid requests: as an admin or, where the rule of the operation under
    test refuses admins, as a role that it allows."""
    parameters = getattr(request.node, "callspec", None)
    operation = parameters and parameters.params.get("operation")
    role = role_for(operation) if operation else "admin"
    caller = await sign_up("Sampler", role)
    return Sampler(app, caller, caller if role == "admin" else await sign_up("Admin", "admin"))


@pytest.fixture
def ask(sampler: Sampler) -> Ask:
    """Send a request, or the same to another URL or with other arguments of httpx, and check the
    answer: as documented, no 5xx, and no echo of the input."""

    async def ask(request: Request, url: str | None = None, **changes: Any) -> httpx.Response:
        arguments = request.arguments() | changes
        method = arguments.pop("method", request.operation.method)
        answer = await sampler.caller.request(method, url or request.url, **arguments)
        holds(request.operation, answer)
        answered = f"{request.operation.title} answered {describe(answer)}"
        assert answer.status_code < 500, f"{answered}\nExpected: no 5xx, whatever a client sends"
        if answer.status_code >= 400:
            # An error may name a field, and repeats no value.
            assert len(answer.content) < 4096, f"{answered}\nExpected: less than 4096 bytes of it"
            assert "x" * 100 not in answer.text, f"{answered}\nExpected: no echo of what was sent"
        return answer

    return ask


@pytest.fixture
def tables_aside() -> set[str]:
    """Tables that `rows` leaves out: a request that fails, or is a replay, may write there."""
    return {"idempotency_keys", "sign_in_attempts"}


@pytest.fixture
def rows(sql: "Connection[Any]", tables_aside: set[str]) -> Rows:
    """All rows as texts, by the name of their table, to be compared before and after a request."""

    async def rows() -> dict[str, set[str]]:
        names = [name for (name,) in await sql.fetch(TABLES) if name not in tables_aside]
        return {
            name: {text for (text,) in await sql.fetch(f'SELECT t::text FROM "{name}" t')}
            for name in names
        }

    return rows
