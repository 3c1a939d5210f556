"""The short way through an operation: what it gives, and what it costs."""

import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Annotated

import httpx
import pytest
from anyio import fail_after
from fastapi import BackgroundTasks, Depends, FastAPI, Form, Header, Query, Security
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel

from kernel.fast import planning
from kernel.fast.planning import NeedsFastAPI, steps_of
from kernel.http.router import BoundaryRoute, Router
from kernel.settings import Settings
from kernel.testing.operations import operations
from kernel.testing.sampler import Sampler
from kernel.testing.switches import needs
from kernel.tests.app import create_app

APP = create_app(Settings(_env_file=None))
OPERATIONS = list(operations(APP))
# Calls of Python functions, for a request that has been made before, within 15 %. An innocent line
# of middleware, or a query for each row, shows here without a clock.
CALLS = {
    "GET /livez": 163,
    "GET /users/me": 349,
    "GET /users?limit=20": 374,  # of two forms, FastAPI finds the one
    "POST /keys": 916,  # an INSERT of what a SELECT finds, and the line of a security event
}


@pytest.fixture
async def sampler(app, sign_up):
    return Sampler(app, await sign_up("Sampler", "admin"))


@pytest.fixture
def both(app, monkeypatch):
    """Make a request on the short way, and again on FastAPI's own."""

    async def both(request):
        short = await request()
        with monkeypatch.context() as patch:
            patch.setattr("kernel.fast.routing.OFF", {"plan"})
            return alike(short), alike(await request())

    return both


def alike(answer):
    """What has to be the same about two answers to one request."""
    body = answer.json() if answer.content else None
    return answer.status_code, answer.headers.keys(), outline(body)


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
        with suppress(NeedsFastAPI, AttributeError):
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
async def test_an_invalid_request_gets_the_same_errors_on_each_way(
    sampler, client, both, request_line, content
):
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
async def at_a_time(at: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None: ...
async def of_two_names(q: Annotated[str, Query(alias="a", validation_alias="b")] = "") -> None: ...
async def made_anew(_: Annotated[None, Depends(nothing, use_cache=False)]) -> None: ...
async def by_few(_: Annotated[None, Depends(nothing, max_concurrency=1)]) -> None: ...
async def secured(_: Annotated[None, Security(nothing, scopes=["x"])]) -> None: ...


@pytest.mark.parametrize(
    "endpoint",
    [
        *(in_background, with_a_header, with_a_list, with_a_form, in_a_thread),
        *(of_the_function, secured, at_a_time, of_two_names, made_anew, by_few),
    ],
)
def test_fastapi_runs_an_operation_that_a_plan_does_not_support(endpoint):
    router = Router()
    router.post("/plain", status_code=204)(nothing)
    router.post("/x", status_code=204)(endpoint)
    plain, context = mounted(router)
    assert steps_of(plain)
    with pytest.raises(NeedsFastAPI):
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
        {"max_body_size": 0},
        {"response_model_include": set()},
    ],
    ids=str,
)
def test_fastapi_runs_an_operation_with_options_for_its_response(options):
    router = Router()
    router.get("/plain")(gives_a_name)
    router.get("/own", **options)(gives_a_name)
    plain, own = mounted(router)
    assert steps_of(plain)
    with pytest.raises(NeedsFastAPI):
        steps_of(own)


NOVELTIES = {
    "operation": lambda context: context._route_context,
    "endpoint": lambda context: context.dependant,
    "dependency": lambda context: context.dependant.dependencies[0],
    "path": lambda context: context.dependant.path_params[0],
    "query": lambda context: context.dependant.query_params[0],
    "query's info": lambda context: context.dependant.query_params[0].field_info,
    "body": lambda context: context.body_field,
    "body's info": lambda context: context.body_field.field_info,
    "answer": lambda context: context.response_field,
}


@pytest.mark.parametrize("part_of", NOVELTIES.values(), ids=NOVELTIES)
def test_fastapi_runs_an_operation_that_uses_an_option_of_a_later_release(monkeypatch, part_of):
    """It has an attribute more, which is the same for all operations but one."""
    plain, own = part_of(planning.PLAINEST), None
    router = Router()
    router.post("/{part}")(takes_all_that_is_known)
    (context,) = mounted(router)
    known = planning._attributes
    monkeypatch.setattr(
        planning, "_attributes", lambda it: known(it) | {"novelty": it is own and it is not plain}
    )
    assert steps_of(context)
    own = part_of(context)
    with pytest.raises(NeedsFastAPI, match="novelty"):
        steps_of(context)


async def takes_all_that_is_known(
    part: str, data: dict[str, str], _: Annotated[None, Depends(nothing)], q: int | None = None
) -> list[str]:
    return [part, data["x"], str(q)]


def mounted(router):
    app = FastAPI()
    app.router.routes.clear()
    app.include_router(router)
    return [*iter_route_contexts(app.routes)]


class Named(BaseModel):
    name: str = "x"


async def gives_a_name() -> Named: ...


class Unwell(Exception): ...


async def is_unwell(data: Named) -> Named:
    raise Unwell


@pytest.fixture
async def asked(app):
    """What the app answers, mounted with a router whose errors read the request's body again."""
    app = create_app(app.state.resources.settings)

    async def on_unwell(request, _):
        return PlainTextResponse(await request.body(), 418)

    app.add_exception_handler(Unwell, on_unwell)
    async with app.router.lifespan_context(app):
        yield app


async def ask(app, method, path, **sent):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **sent)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("way", ["short", "long", "form"])
async def test_an_error_handler_may_read_the_body(asked, monkeypatch, retries, way):
    async def reads_a_form(name: Annotated[str, Form()]) -> Named:
        raise Unwell

    router = Router(tags=["unwell"], retries=retries)
    router.post("/unwell")(reads_a_form if way == "form" else is_unwell)
    asked.include_router(router)
    if way == "long":
        monkeypatch.setattr("kernel.fast.routing.OFF", {"plan"})
    sent = {"data": {"name": "x"}} if way == "form" else {"json": {"name": "x"}}
    with fail_after(5):
        answer = await ask(asked, "POST", "/unwell", **sent)
    if way == "form":
        assert answer.status_code == 500  # as in FastAPI alone, where nothing is left but the form
    else:
        assert (answer.status_code, answer.content) == (418, b'{"name":"x"}')


async def test_fastapi_reads_a_body_without_a_content_type(asked):
    """Over HTTP/2, there may be a body without a length. It is no JSON that nothing says it is."""
    router = Router(tags=["bodies"])
    router.post("/bodies")(takes_a_name)
    asked.include_router(router)
    told = []
    scope = {"type": "http", "method": "POST", "path": "/bodies", "query_string": b""}
    scope |= {"headers": [], "http_version": "2", "scheme": "http", "root_path": ""}
    messages = [{"type": "http.request", "body": b'{"name": "x"}', "more_body": False}]

    async def receive():
        return messages.pop(0)

    async def send(message):
        told.append(message)

    await asked(scope, receive, send)
    assert told[0]["status"] == 422


async def takes_a_name(data: Named) -> Named:
    return data


async def test_fastapi_calls_overridden_dependencies(asked):
    router = Router(tags=["overridden"])
    router.get("/overridden")(gives_what_it_depends_on)
    asked.include_router(router)
    for expected in ("own", "another"):
        assert (await ask(asked, "GET", "/overridden")).json() == expected
        asked.dependency_overrides[own_name] = another_name


async def own_name() -> str:
    return "own"


async def another_name() -> str:
    return "another"


async def gives_what_it_depends_on(name: Annotated[str, Depends(own_name)]) -> str:
    return name


class Loud(APIRoute):
    def get_route_handler(self):
        handler = super().get_route_handler()

        async def loud(request):
            response = await handler(request)
            response.headers["X-Loud"] = "yes"
            return response

        return loud


class LoudBoundary(Loud, BoundaryRoute): ...


class LoudHandle(BoundaryRoute):
    async def handle(self, *_):
        raise Unwell


@pytest.mark.parametrize("route_class", [Loud, LoudBoundary, LoudHandle])
async def test_a_route_class_of_a_teams_own_is_used(asked, route_class):
    router = Router(tags=["loud"], route_class=route_class)
    router.post("/loud")(takes_a_name)
    asked.include_router(router)
    answer = await ask(asked, "POST", "/loud", json={"name": "x"})
    if route_class is LoudHandle:
        assert answer.status_code == 418
    else:
        assert (answer.headers["x-loud"], answer.json()) == ("yes", {"name": "x"})
    assert issubclass(type(router.routes[0]), BoundaryRoute)


def test_fastapi_runs_a_route_that_was_changed():
    router = Router()
    router.get("/plain")(gives_a_name)
    router.get("/own")(gives_a_name)
    plain, own = mounted(router)
    assert plain.original_route.short_way(plain)
    own.original_route.handle = None
    with pytest.raises(NeedsFastAPI):
        own.original_route.short_way(own)


@needs("plan")
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
