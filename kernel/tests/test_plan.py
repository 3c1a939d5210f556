"""The short way through an operation: what it gives, and what it costs."""

import sys
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Annotated

import pytest
from fastapi import BackgroundTasks, Depends, Form, Header, Query, Security
from fastapi.responses import PlainTextResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel

from kernel.fast import planning
from kernel.fast.planning import Unplanned, steps_of
from kernel.http.router import Router
from kernel.settings import Settings
from kernel.testing.operations import operations
from kernel.testing.sampler import Sampler
from kernel.tests.app import create_app

APP = create_app(Settings(_env_file=None))
OPERATIONS = list(operations(APP))
# Calls of Python functions, for a request that has been made before, within 15 %. An innocent line
# of middleware, or a query for each row, shows here without a clock.
CALLS = {
    "GET /livez": 128,
    "GET /users/me": 225,
    "GET /users?limit=20": 262,
    "POST /keys": 440,
}


@pytest.fixture
async def sampler(app, sign_up):
    return Sampler(app, await sign_up("Sampler", "admin"))


@pytest.fixture
def both(app):
    """Make a request on the short way, and again on FastAPI's own."""

    async def both(request):
        short = await request()
        app.dependency_overrides[both] = both  # FastAPI's solver alone knows what to do with these
        try:
            return alike(short), alike(await request())
        finally:
            app.dependency_overrides.clear()

    return both


def alike(answer):
    """What has to be the same about two answers to one request."""
    body = answer.json() if answer.content else None
    # FastAPI names the type of no content, too.
    names = answer.headers.keys() - ({"content-type"} if answer.status_code == 204 else set())
    return answer.status_code, names, outline(body)


def outline(value):
    if isinstance(value, dict):
        return {name: outline(each) for name, each in value.items()}
    if isinstance(value, list):
        return [outline(each) for each in value[:2]]
    return type(value)


def planned():
    """The operations that go the short way."""
    found = set()
    for context in iter_route_contexts(APP.routes):
        with suppress(Unplanned, AttributeError):
            steps_of(context)
            found |= {f"{method} {context.path_format}" for method in context.methods}
    walked = [each for each in OPERATIONS if not isinstance(each.hook("SKIPS"), str)]
    return [each for each in walked if str(each) in found]


@pytest.mark.parametrize("operation", planned(), ids=str)
async def test_the_short_way_answers_as_fastapis_own(sampler, both, operation):
    async def request():
        return await sampler.call(operation)

    short, long = await both(request)
    assert short[0] < 300
    assert short == long


@pytest.mark.parametrize(
    ("request_line", "content"),
    [
        ("GET /peelings/x1", None),
        ("GET /peelings/7", None),
        ("GET /peelings?limit=0&order=no", None),
        ("GET /peelings?q=a&q=b", None),
        ("POST /peelings", None),
        ("POST /peelings", "{"),
        ("POST /peelings", "[" * 9000),
        ("POST /peelings", '{"title": 7, "more": 1}'),
        ("PATCH /peelings/7", '{"title": "x"}'),
    ],
)
async def test_what_fails_fails_alike(sampler, client, both, request_line, content):
    method, url = request_line.split()
    for caller, kind in product((sampler.caller, client), ("application/json", "text/plain")):
        sent = {"content": content, "headers": {"Content-Type": kind}} if content else {}
        short, long = await both(partial(caller.request, method, url, **sent))
        assert short == long


def test_the_services_own_operations_go_the_short_way():
    ours = {"health", "auth", "keys", "users", "items", "peelings"}
    own = {each for each in OPERATIONS if not each.is_form and ours >= {*each.spec["tags"]}}
    streams = {each for each in own if each.name == "export_peelings"}
    assert own - streams <= {*planned()}


async def in_background(tasks: BackgroundTasks) -> None: ...
async def with_a_header(x_why: Annotated[str, Header()]) -> None: ...
async def with_a_list(why: Annotated[list[str], Query()]) -> None: ...
async def with_a_form(why: Annotated[str, Form()]) -> None: ...
def in_a_thread() -> None: ...
async def nothing() -> None: ...
async def of_the_function(_: Annotated[None, Depends(nothing, scope="function")]) -> None: ...
async def secured(_: Annotated[None, Security(nothing, scopes=["x"])]) -> None: ...


@pytest.mark.parametrize(
    "endpoint",
    [
        *(in_background, with_a_header, with_a_list, with_a_form, in_a_thread),
        *(of_the_function, secured),
    ],
)
def test_what_asks_for_more_goes_fastapis_way(endpoint):
    router = Router()
    router.post("/")(endpoint)
    (context,) = iter_route_contexts(router.routes)
    with pytest.raises(Unplanned):
        steps_of(context)


@pytest.mark.parametrize(
    "options",
    [
        {"response_model_exclude": {"name"}},
        {"response_model_include": {"name"}},
        {"response_model_exclude_defaults": True},
        {"response_model_exclude_none": True},
        {"response_model_exclude_unset": True},
        {"response_model_by_alias": False},
        {"response_class": PlainTextResponse},
        {"response_model": None},
        {"max_body_size": 10},
    ],
    ids=str,
)
def test_an_answer_in_a_form_of_its_own_goes_fastapis_way(options):
    router = Router()
    router.get("/")(gives_a_name)
    router.get("/own", **options)(gives_a_name)
    plain, own = iter_route_contexts(router.routes)
    assert steps_of(plain)
    with pytest.raises(Unplanned):
        steps_of(own)


def test_what_a_later_fastapi_adds_goes_fastapis_way_where_it_is_used(monkeypatch):
    router = Router()
    router.get("/")(gives_a_name)
    (context,) = iter_route_contexts(router.routes)
    monkeypatch.setattr(planning.PLAIN_ROUTE, "novelty", None, raising=False)
    monkeypatch.setattr(planning, "OPTIONS", {*planning.OPTIONS, "novelty"})
    for novelty in (None, True):
        context.original_route.novelty = novelty
        if novelty is None:
            assert steps_of(context)
        else:
            with pytest.raises(Unplanned):
                steps_of(context)


class Named(BaseModel):
    name: str = "x"


async def gives_a_name() -> Named: ...


@pytest.mark.house
@pytest.mark.parametrize("request_line", CALLS)
async def test_a_request_costs_about_so_many_calls(app, sampler, request_line):
    method, url = request_line.split()
    for number in range(20):
        await sampler.caller.post("/keys", json={"name": f"key {number}"})

    async def request():
        body = {"json": {"name": "Robot"}} if method == "POST" else {}
        answer = await sampler.caller.request(method, url, **body)
        assert answer.is_success

    await request()
    calls = min([await counted(app, request) for _ in range(3)])
    assert CALLS[request_line] * 0.85 <= calls <= CALLS[request_line] * 1.15


async def counted(app, request):
    """The calls within the app; those of the client are its own."""
    calls, inside = 0, 0
    entrance = type(app).__call__.__code__

    def see(frame, event, _):
        nonlocal calls, inside
        if frame.f_code is entrance:
            inside += {"call": 1, "return": -1}.get(event, 0)
        # Before Python 3.12, comprehensions were functions, too.
        elif event == "call" and inside and not frame.f_code.co_name.endswith("comp>"):
            calls += 1

    sys.setprofile(see)
    try:
        await request()
    finally:
        sys.setprofile(None)
    return calls
