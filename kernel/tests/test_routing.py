"""The way from a path to its operation: the switchboard's, and FastAPI's own behind it."""

import json
from functools import partial
from typing import Annotated, Literal

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.exceptions import ResponseValidationError
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from fastapi.telemetry import get_telemetry_data
from pydantic import BaseModel, BeforeValidator
from starlette.routing import Match, Route

from kernel.fast import planning, routing
from kernel.fast.routing import Switchboard
from kernel.fast.switches import OFF
from kernel.http.router import Router
from kernel.testing import switches
from kernel.testing.switches import needs
from kernel.tests.production.instruments import MeterProvider, TracerProvider

on_the_short_way = needs("plan")


@pytest.fixture
def ask():
    """Ask a service of one router for a path, behind the switchboard or without it."""

    async def ask(router, method, path, is_short=True, app=None, root_path="", **sent):
        app = app or FastAPI()
        if router:
            app.include_router(router)
        if is_short and not isinstance(app.router.middleware_stack, Switchboard):
            app.router.middleware_stack = Switchboard(app)
        transport = httpx.ASGITransport(app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.request(method, path, **sent)
        return answer.status_code, answer.text

    return ask


FASTAPIS = {"fastapi", "fastapi_function_astack", "fastapi_inner_astack"}


class Sent(BaseModel):
    text: str


async def takes_a_text(data: Sent) -> Sent:
    return data


async def gives_the_text_of_it(text: str) -> Sent:
    return {"text": text}


async def gives_nothing_of_it() -> Sent:
    return {}


@pytest.mark.parametrize("is_short", [True, False])
async def test_an_answer_is_made_what_its_operation_says(ask, is_short):
    router = Router()
    router.get("/text")(gives_the_text_of_it)
    router.get("/nothing")(gives_nothing_of_it)
    assert await ask(router, "GET", "/text?text=x", is_short) == (200, '{"text":"x"}')
    with pytest.raises(ResponseValidationError, match="Field required"):
        await ask(router, "GET", "/nothing", is_short)


async def tells_its_parameters(request: Request) -> dict[str, str]:
    return {name: type(value).__name__ for name, value in request.path_params.items()}


async def tells_where_it_is(request: Request) -> str:
    return str(request.url_for("tells_where_it_is"))


@pytest.mark.parametrize("is_short", [True, False])
async def test_a_limit_of_the_body_holds_on_each_way(ask, is_short):
    sent = {"json": {"text": "x" * 100}}
    for place in ("route", "router", "app"):
        limit = {"max_body_size": 50}
        router = Router(**(limit if place == "router" else {}))
        router.get("/x", **(limit if place == "route" else {}))(takes_a_text)
        app = FastAPI(**(limit if place == "app" else {}))
        assert (await ask(router, "GET", "/x", is_short, app, **sent))[0] == 413


@pytest.mark.parametrize(
    ("path", "url", "text"),
    [
        ("/x/{size:float}", "/x/1.5", '{"size":"float"}'),
        ("/x/{name}", "/x/1.5", '{"name":"str"}'),
        ("/x/{rest:path}", "/x/1/2", '{"rest":"str"}'),
    ],
)
@pytest.mark.parametrize("is_short", [True, False])
async def test_a_request_has_the_parameters_of_its_path(ask, path, url, text, is_short):
    router = Router()
    router.get(path)(tells_its_parameters)
    assert await ask(router, "GET", url, is_short) == (200, text)


@pytest.mark.parametrize("is_short", [True, False])
async def test_a_request_knows_its_router(ask, is_short):
    router = Router()
    router.get("/x")(tells_where_it_is)
    assert await ask(router, "GET", "/x", is_short) == (200, '"http://test/x"')


async def tells_its_scope(request: Request) -> list[str]:
    return sorted(request.scope)


async def test_a_scope_has_the_same_names_on_each_way(ask):
    """But for FastAPI's own, in which it keeps what a plan does without."""
    router = Router()
    router.get("/x/{name}")(tells_its_scope)
    short, long = [json.loads((await ask(router, "GET", "/x/1", way))[1]) for way in (True, False)]
    assert {*short} - FASTAPIS == {*long} - FASTAPIS
    assert FASTAPIS.isdisjoint(short) or OFF


@on_the_short_way
async def test_what_cannot_be_planned_for_another_reason_is_told_and_answered(
    ask, monkeypatch, caplog
):
    router = Router()
    router.get("/x")(tells_where_it_is)
    monkeypatch.setattr(planning, "Step", None)
    assert await ask(router, "GET", "/x") == (200, '"http://test/x"')
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_trace_says_the_same_on_each_way(ask):
    """Its spans and metrics have the same names, and who looks into a request sees the same."""
    told = []
    for is_short in (True, False):
        tracers, meters = TracerProvider(), MeterProvider()
        config = {"tracer_provider": tracers, "meter_provider": meters, "operation_spans": False}
        app = FastAPI(telemetry={**config, "logs": False})
        router = Router(prefix="/x")
        router.get("/{name}")(tells_what_a_trace_may_know)
        app.include_router(router, prefix="/mounted")
        app.mount("/app", app_of(router))
        for path in ("/mounted/x/1?size=7", "/mounted/x/1?size=x", "/app/x/1", "/nowhere"):
            answer = await ask(None, "GET", path, is_short, app)
            spans = [span.attributes for span in tracers.tracer.spans]
            told.append((is_short, answer, spans, meters.meter.recorder.attributes))
            assert (spans[-1].get("http.route") is None) == (path == "/nowhere")
        assert spans[0]["http.route"] == "/mounted/x/{name}"
    assert [each[1:] for each in told[:4]] == [each[1:] for each in told[4:]]


def app_of(router):
    app = FastAPI()
    app.include_router(router)
    return app


async def tells_what_a_trace_may_know(request: Request, name: str, size: int = 1) -> list[str]:
    data = get_telemetry_data()
    assert data.request is request
    assert {**data.values, "request": None} == {"request": None, "name": name, "size": size}
    return [str(data.body), str(data.errors)]


async def test_who_asks_for_spans_of_fastapis_steps_gets_them(ask):
    provider = TracerProvider()
    app = FastAPI(telemetry={"tracer_provider": provider, "metrics": False, "logs": False})
    router = Router()
    router.get("/x/{name}")(tells_its_parameters)
    assert await ask(router, "GET", "/x/1", app=app) == (200, '{"name":"str"}')
    assert "/x/{name}" in [span.attributes.get("http.route") for span in provider.tracer.spans]
    assert len(provider.tracer.spans) == 4


async def which_way(request: Request) -> str:
    return "long" if "fastapi_inner_astack" in request.scope else "short"


SHORT, LONG = (200, '"short"'), (200, '"long"')


def ways():
    router = Router()
    router.get("/way")(which_way)
    router.get("/way/{name}")(which_way)
    return router


@on_the_short_way
async def test_the_short_way_is_taken_behind_a_prefix(ask):
    for path in ("/way", "/api/way", "/api/way/x"):
        assert await ask(ways(), "GET", path, root_path="/api") == SHORT
    assert await ask(ways(), "GET", "/apiway", root_path="/api") == (404, '{"detail":"Not Found"}')


async def socket(websocket: WebSocket) -> None: ...
async def starlettes(request: Request) -> PlainTextResponse:
    return PlainTextResponse("starlette")


class Choosy(APIRoute):
    def matches(self, scope):
        is_mine = (b"x-mine", b"1") in scope["headers"]
        return super().matches(scope) if is_mine else (Match.NONE, {})


class ChoosyRouter(APIRouter):
    def matches(self, scope):
        is_mine = (b"x-mine", b"1") in scope["headers"]
        return super().matches(scope) if is_mine else (Match.NONE, {})


class Everywhere(APIRoute):
    def matches(self, scope):
        return super().matches({**scope, "path": "/elsewhere"})


def everywhere():
    return wild("/elsewhere", make=partial(APIRouter, route_class=Everywhere))


def wild(path="/{tenant}", method="GET", make=Router):
    router = make()
    router.api_route(path, methods=[method])(which_way)
    return router


def of_any_method():
    router = Router(generate_unique_id_function=lambda route: route.name)
    router.api_route("/way", methods=[])(which_way)
    return router


def choosy():
    return wild("/way", make=partial(APIRouter, route_class=Choosy))


NEIGHBOURS = {
    "a mounted app": (lambda app: app.mount("/files", FastAPI()), SHORT),
    "an app at the same path": (lambda app: app.mount("/way", app_of(wild("/x"))), SHORT),
    "an app at a wild path": (lambda app: app.mount("/{any}", app_of(wild("/x"))), SHORT),
    "an app at each path": (lambda app: app.mount("", app_of(wild("/way"))), LONG),
    "another host": (lambda app: app.host("other.example", FastAPI()), SHORT),
    "this host": (lambda app: app.host("test", app_of(wild("/way"))), LONG),
    "a socket": (lambda app: app.add_api_websocket_route("/way", socket), SHORT),
    "a socket of Starlette's": (
        lambda app: app.router.add_websocket_route("/{way}", socket),
        SHORT,
    ),
    "a route of Starlette's": (lambda app: app.add_route("/other", starlettes), SHORT),
    "one of another method": (lambda app: app.add_route("/way", starlettes, ["POST"]), SHORT),
    "one of this path": (lambda app: app.add_route("/way", starlettes), (200, "starlette")),
    "one of any path": (lambda app: app.add_route("/{x:path}", starlettes), (200, "starlette")),
    "a wild route": (lambda app: app.include_router(wild()), SHORT),
    "a wild route of FastAPI's": (lambda app: app.include_router(wild(make=APIRouter)), LONG),
    "a wild route to POST": (lambda app: app.include_router(wild(method="POST")), SHORT),
    "a wild number": (lambda app: app.include_router(wild("/{way:int}")), SHORT),
    "a wild tenant": (lambda app: app.include_router(wild("/{tenant}/more")), SHORT),
    "a wild prefix": (lambda app: app.include_router(wild("/"), prefix="/{tenant}"), SHORT),
    "a route of any method": (
        lambda app: app.router.routes.append(Route("/way", starlettes, methods=[])),
        (200, "starlette"),
    ),
    "an operation of any method": (lambda app: app.include_router(of_any_method()), LONG),
    "a choosy route": (lambda app: app.include_router(choosy()), LONG),
    "a choosy router": (lambda app: app.include_router(ChoosyRouter()), LONG),
    "a choosy router in another": (lambda app: app.include_router(nested(ChoosyRouter())), LONG),
    "a router in another": (lambda app: app.include_router(nested(wild("/x"))), SHORT),
    "a prefix of this path": (
        lambda app: app.include_router(wild("", make=APIRouter), prefix="/way"),
        LONG,
    ),
    "a prefix in another": (
        lambda app: app.include_router(nested(wild("/{x}", make=APIRouter), "/other"), prefix=""),
        SHORT,
    ),
    "a route that is everywhere": (lambda app: app.include_router(everywhere()), LONG),
}


def nested(router, prefix=""):
    outer = APIRouter()
    outer.include_router(router, prefix=prefix)
    return outer


@pytest.mark.parametrize(("add", "expected"), NEIGHBOURS.values(), ids=NEIGHBOURS)
async def test_the_first_route_that_matches_answers(ask, add, expected):
    found = []
    for is_short in (True, False):
        app = FastAPI()
        add(app)
        app.include_router(ways())
        paths = ("/way", "/way/x", "/way\n", "/other", "/WAY", "/files/x", "/other/more")
        headers = [{}, {"X-Mine": "1"}, {"Host": "other.example"}]
        found.append(
            [
                (await ask(None, "GET", path.replace("\n", "%0A"), is_short, app, headers=each))
                for path in paths
                for each in headers
            ]
        )
    short, long = found
    assert [same(each) for each in short] == [same(each) for each in long]
    assert short[0] == expected or (OFF and short[0] == long[0])


def same(answer):
    status, text = answer
    return status, text.replace("short", "long")


async def test_a_path_that_ends_with_a_line_break_is_its_routes(ask):
    """A pattern's `$` stands before it, too."""
    router = Router()
    router.get("/x")(says_one)
    router.get("/{x}")(says_two)
    for is_short in (True, False):
        assert await ask(router, "GET", "/x%0A", is_short) == (200, '"one"')
        assert await ask(router, "GET", "/y%0A", is_short) == (200, '"two"')


async def test_a_layer_that_is_off_is_not_gone_through(ask, monkeypatch):
    app = FastAPI()
    app.include_router(ways())
    for off in (set(), {"plan"}, set()):
        monkeypatch.setattr(routing, "OFF", off)
        assert await ask(None, "GET", "/way", app=app) == (LONG if off else SHORT)


def test_a_layer_that_is_not_there_cannot_be_turned_off(pytestconfig, monkeypatch):
    monkeypatch.setattr(pytestconfig.option, "without", "plan,plane")
    with pytest.raises(pytest.UsageError, match="not plane"):
        switches.pytest_configure(pytestconfig)


def test_a_test_is_left_out_where_the_same_ones_of_its_ways_were_off(monkeypatch):
    monkeypatch.setattr(switches, "OFF", {"plan"})
    assert switches._is_same([], ["rows"])
    assert switches._is_same(["plan", "rows"], ["plan"])
    assert not switches._is_same([], ["plan"])
    assert not switches._is_same(["plan", "rows"], ["plan", "rows"])


WHERE = Depends(tells_where_it_is)


async def knows_no_such_name(x: str, y: "Nowhere" = WHERE) -> str:  # noqa: F821  # what it is about
    return x


async def test_an_annotation_may_be_for_type_checkers_alone(ask):
    router = Router()
    router.get("/x/{x}")(knows_no_such_name)
    router.get("/x", name="tells_where_it_is")(tells_where_it_is)
    assert await ask(router, "GET", "/x/1") == (200, '"1"')


async def takes_a_number_or_a_word(key: int | str) -> int | str:
    return key


async def takes_a_number_or_latest(key: int | Literal["latest"]) -> int | str:
    return key


async def takes_a_word_for_a_number(
    key: Annotated[int, BeforeValidator(lambda text: {"latest": 7}.get(text, text))],
) -> int:
    return key


@pytest.mark.parametrize("is_short", [True, False])
@pytest.mark.parametrize(
    ("takes", "word", "number"),
    [
        (takes_a_number_or_a_word, '"latest"', '"5"'),
        (takes_a_number_or_latest, '"latest"', "5"),
        (takes_a_word_for_a_number, "7", "5"),
    ],
)
async def test_a_parameter_that_takes_words_and_numbers_gets_both(
    ask, takes, word, number, is_short
):
    router = Router()
    router.get("/x/{key}")(takes)
    assert await ask(router, "GET", "/x/latest", is_short) == (200, word)
    assert await ask(router, "GET", "/x/5", is_short) == (200, number)


async def says_one() -> str:
    return "one"


async def says_two() -> str:
    return "two"


async def test_what_is_mounted_while_the_service_runs_is_found(ask):
    app, first, second = FastAPI(), Router(), Router()

    async def says(path="/x"):
        return (await ask(None, "GET", path, app=app))[1]

    assert await says() == '{"detail":"Not Found"}'
    first.get("/x")(says_one)
    app.include_router(first)
    assert await says() == '"one"'
    second.get("/x")(says_two)
    app.include_router(second)
    assert await says() == '"one"'
    app.router.routes[-2:] = reversed(app.router.routes[-2:])
    assert await says() == '"two"'
    second.get("/late")(says_two)
    assert await says("/late") == '"two"'
    inner = Router(prefix="/inner")
    second.include_router(inner)
    inner.get("/late")(says_one)
    assert await says("/inner/late") == '"one"'
    app.router.routes[-1] = app.router.routes[-2] = Route("/x", starlettes)
    assert await says() == "starlette"
    app.router.routes.clear()
    assert await says() == '{"detail":"Not Found"}'


async def test_a_route_that_is_added_before_another_is_found(ask):
    app, first, inner, second = FastAPI(), Router(), Router(), Router()
    first.include_router(inner)
    app.include_router(first)
    app.include_router(second)
    for path, router in (("/x", first), ("/y", inner)):
        second.get(path)(says_one)
        assert await ask(None, "GET", path, app=app) == (200, '"one"')
        router.get(path)(says_two)
        assert await ask(None, "GET", path, app=app) == (200, '"two"')


async def test_a_router_may_be_replaced_by_its_like(ask):
    app = FastAPI()
    for status in (201, 202):
        router = Router()
        router.get("/x", status_code=status)(says_one)
        app.router.routes.clear()
        app.include_router(router)
        assert await ask(None, "GET", "/x", app=app) == (status, '"one"')


async def test_a_service_may_be_a_part_of_another(ask):
    """The parameters of its path are there, and its router is not in the place of the other's."""
    outer, inner = FastAPI(), FastAPI()
    inner.router.middleware_stack = Switchboard(inner)
    router = Router()
    router.get("/x/{name}")(tells_its_parameters)
    router.get("/router")(tells_its_router)
    inner.include_router(router)
    outer.mount("/{tenant}", inner)
    assert await ask(None, "GET", "/t/x/1", False, outer) == (200, '{"tenant":"str","name":"str"}')
    assert await ask(None, "GET", "/t/router", False, outer) == (200, "false")


async def tells_its_router(request: Request) -> bool:
    return request.scope["router"] is request.app.router
