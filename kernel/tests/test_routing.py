"""The way from a path to its operation: the switchboard's, and FastAPI's own behind it."""

import json

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import ResponseValidationError
from opentelemetry import trace
from pydantic import BaseModel

from kernel.fast import planning
from kernel.fast.routing import Switchboard
from kernel.http.router import Router


@pytest.fixture
def ask():
    """Ask a service of one router for a path, behind the switchboard or without it."""

    async def ask(router, method, path, is_short=True, app=None, **sent):
        app = app or FastAPI()
        app.include_router(router)
        if is_short:
            app.router.middleware_stack = Switchboard(app)
        transport = httpx.ASGITransport(app)
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
    assert short == [name for name in long if name not in FASTAPIS]


async def test_what_cannot_be_planned_for_another_reason_is_told_and_answered(
    ask, monkeypatch, caplog
):
    router = Router()
    router.get("/x")(tells_where_it_is)
    monkeypatch.setattr(planning, "Step", None)
    assert await ask(router, "GET", "/x") == (200, '"http://test/x"')
    assert [record.levelname for record in caplog.records] == ["WARNING"]


class Span(trace.NonRecordingSpan):
    """A span that keeps its attributes."""

    attributes: dict[str, object]

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, key: str, value: object) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: dict[str, object]) -> None:
        self.attributes.update(attributes)


class Tracer(trace.NoOpTracer):
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def start_span(self, *_: object, **__: object) -> Span:
        span = Span(trace.INVALID_SPAN_CONTEXT)
        span.attributes = {}
        self.spans.append(span)
        return span


class TracerProvider(trace.TracerProvider):
    def __init__(self) -> None:
        self.tracer = Tracer()

    def get_tracer(self, *_: object, **__: object) -> Tracer:
        return self.tracer


async def test_a_trace_names_the_route(ask):
    provider = TracerProvider()
    app = FastAPI(telemetry={"tracer_provider": provider, "metrics": False, "logs": False})
    router = Router()
    router.get("/x/{name}")(tells_its_parameters)
    assert await ask(router, "GET", "/x/1", app=app) == (200, '{"name":"str"}')
    assert "/x/{name}" in [span.attributes.get("http.route") for span in provider.tracer.spans]
