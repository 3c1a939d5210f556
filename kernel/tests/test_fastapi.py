"""What FastAPI's documentation shows, asked of a service and of plain FastAPI.

The definitions are in documented.py. Tutorial: path and query parameters, validations, query
models, header and cookie parameters and models, bodies (fields, several, nested, embedded), extra
data types, response models and status codes, forms and files, handling errors, path operation
configuration, the JSON-compatible encoder, updates, dependencies (classes, sub-dependencies, in
decorators, global, with yield), security, middleware, CORS, bigger applications, background tasks,
JSON lines and server-sent events. Advanced: responses returned, additional, with cookies, headers
and statuses, dataclasses, custom routes and routers, sub-applications, behind a proxy, request body
limits, WebSockets, hosts.

Each request is answered by plain FastAPI, by the service on its short ways, and by the service
without them. The latter two are to be equal to the byte, the first but for what the house adds.
"""

from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts

from kernel.fast.planning import NeedsFastAPI, steps_of
from kernel.fast.switches import OFF
from kernel.http.application import build_app
from kernel.http.openapi import operation_id
from kernel.http.router import Router
from kernel.tests.documented import mount

ITEM = {"name": "a", "price": 1.5}
FORM = "application/x-www-form-urlencoded"
GETS = """
/path/text/a /path/text/a%20b /path/text/a%2Fb /path/text/%C3%A9 /path/text/a%0A /path/text/
/path/number/7 /path/number/007 /path/number/0 /path/number/1001 /path/number/1.5 /path/number/-1
/path/number/x /path/number/1_0 /path/number/99999999999999999999 /path/number/%201
/path/float/1.5 /path/float/0 /path/float/nan /path/float/1e1 /path/float/x
/path/enum/resnet/1 /path/enum/no/3 /path/enum/alexnet/HIGH
/path/file/a/b/c.txt /path/file/ /path/file//etc /path/file/a%0Ab /path/int/5 /path/int/x
/path/int/-5 /path/uuid/00000000-0000-0000-0000-000000000007 /path/uuid/7
/path/types/2026-01-02/00000000-0000-0000-0000-000000000007/1.10/PT90S /path/types/x/x/x/x
/path/alias/x /path/me /path/me%0A /path/you /path/me/ /path // /path//me
/query/simple?needed=a /query/simple /query/simple?needed= /query/simple?needed=a&skip=
/query/simple?needed=a&needed=b&skip=1&skip=x /query/simple?needed=a&skip=x&skip=2&q=
/query/simple?needed=a+b&q=%C3%A9%FF /query/simple?needed=a&q=a&more=1 /query/simple?needed
/query/simple?needed=a;q=b /query/simple?=x&needed=1&&
/query/needed-or-none /query/needed-or-none?q= /query/needed-or-none?q=x&on=yes
/query/needed-or-none?q=x&on=maybe /query/needed-or-none?q=None&on=1
/query/rules /query/rules?q=a /query/rules?q=ABC&size=2 /query/rules?q=abcdef&size=inf
/query/rules?q=zz&size=.5 /query/alias?item-query=x /query/alias?q=x&hidden=y&other=1&else=2
/query/alias?a=1&b=2 /query/alias?b=2 /query/many /query/many?q=a&q=b&ids=1&ids=1 /query/many?ids=x
/query/many?q= /query/model /query/model?limit=1&order=old&tags=a&tags=b /query/model?limit=0&x=1
/query/enum /query/enum?model=alexnet&level=2&mode=2 /query/enum?mode=b&level=3
/query/validators /query/validators?word=toolong&even=3 /query/validators?word=xy&even=4
/query/validators?strict=1 /query/made /query/made?numbers=1 /query/default-object
/query/default-object?at=2026-02-03T04:05:06Z /query/default-object?at=x
/query/union?value=1 /query/union?value=true /query/union?value=x /query/union?value=1.0
/header /header/model /cookie /cookie/model
/answer/filtered /answer/subclass /answer/subclasses /answer/dict /answer/row /answer/wrong
/answer/nothing-declared /answer/unset /answer/defaults /answer/none /answer/include
/answer/include-nothing /answer/exclude /answer/by-name /answer/by-alias /answer/computed
/answer/marked /answer/marked-many /answer/union /answer/union?cat=no /answer/optional
/answer/optional?there=1 /answer/numbers /answer/text /answer/decimal /answer/dataclass
/answer/none-declared /answer/off
/status/unmodified /response/json /response/in-model /response/html /response/plain
/response/redirect /response/redirect-status /response/stream /response/background /response/lines
/response/threaded-lines /response/events /error/http /error/own /error/unhandled
/error/raised-validation
/depends/class /depends/class?skip=1&limit=x /depends/instance /depends/instance?more=1
/depends/awaitable-class?q=k /depends/thread /depends/sub?q=3 /depends/sub?q=x /depends/cached
/depends/fresh /depends/scoped /depends/at-most /depends/yield /depends/yield?fail=1
/depends/decorator /depends/decorator?token=right&note=n /depends/order /depends/order?number=x
/depends/order?token=right&number=x /depends/order?token=right&number=2 /depends/noted?seen=a
/depends/noted /depends/noted?seen=a&note=b /depends/errors?number=5 /depends/errors?number=x
/depends/errors?number=1&size=2&q=abc /depends/errors?number=1&size=2 /depends/errors
/depends/decorated /depends/partial /depends/partial?second=2 /depends/method?more=1
/depends/endpoint-in-a-thread /depends/endpoint-in-a-thread?q=x /depends/connection
/depends/lambda /depends/called /depends/called?more=2 /depends/partially /depends/events
/security/basic /security/key /security/scopes
/outer/more/inner/k /once/twice /again/twice /tenants/t/things/1 /tenants/t/things/x
/plain/text /custom/versioned /custom/timed /custom/refusing /custom/gate
/sub/hello/x /sub/nothing /sub /starlette/1 /starlette/x /socket/r /any/home /late/home /late/there
/small/body /nowhere /nowhere/at/all
""".split()  # noqa: SIM905  # a hundred quotes less
GOOD, OTHER = {"Origin": "https://good.example"}, {"Host": "other.example"}
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    *(("GET", path, {}) for path in GETS),
    ("GET", "/header", {"headers": [("User-Agent", "me"), ("X-Token", "a"), ("X-Token", "b")]}),
    ("GET", "/header", {"headers": {"strange_header": "s", "strange-header": "t"}}),
    ("GET", "/header/model", {"headers": {"X-Host": "h", "X-Tag": "t"}}),
    ("GET", "/cookie", {"headers": {"Cookie": "ads_id=7"}}),
    ("GET", "/cookie", {"headers": {"Cookie": "ads_id=x"}}),
    ("GET", "/cookie/model", {"headers": {"Cookie": "session=s; tracker=t"}}),
    ("GET", "/depends/sub", {"headers": {"X-Token": "t"}}),
    ("GET", "/security/basic", {"auth": ("ada", "x")}),
    ("GET", "/security/key", {"headers": {"X-Key": "k"}}),
    ("GET", "/outer/more/inner/k", {"headers": {"X-Token": "t"}}),
    ("GET", "/custom/versioned", {"headers": {"X-Version": "2"}}),
    ("GET", "/custom/refusing", {"headers": {"X-Refuse": "yes"}}),
    ("GET", "/custom/gate", {"headers": {"X-Gate": "open"}}),
    ("GET", "/hello/x", {"headers": OTHER}),
    ("GET", "/path/text/a", {"headers": OTHER}),
    ("GET", "/path/text/a", {"headers": GOOD}),
    ("OPTIONS", "/body/item", {"headers": {**GOOD, "Access-Control-Request-Method": "POST"}}),
    ("OPTIONS", "/path/text/a", {}),
    ("POST", "/path/text/a", {}),
    ("DELETE", "/path/text/a", {}),
    ("POST", "/custom/timed", {}),
    ("POST", "/body/item", {"json": ITEM}),
    ("POST", "/body/item", {"json": {**ITEM, "tags": ["x"], "image": {"url": "u"}, "more": 1}}),
    ("POST", "/body/item", {"json": {**ITEM, "name": "", "price": 0, "image": {"name": 1}}}),
    ("POST", "/body/item", {"json": []}),
    ("POST", "/body/item", {"json": None}),
    ("POST", "/body/item", {"json": "text"}),
    ("POST", "/body/item", {}),
    ("POST", "/body/item", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    ("POST", "/body/item", {"content": b"\xff", "headers": {"Content-Type": "application/json"}}),
    (
        "POST",
        "/body/item",
        {"content": b"[" * 9000, "headers": {"Content-Type": "application/json"}},
    ),
    (
        "POST",
        "/body/item",
        {
            "content": b'{"name": "a", "price": 1}',
            "headers": {"Content-Type": " Application/JSON ; charset=utf-8"},
        },
    ),
    ("PUT", "/body/mixed/7?q=x", {"json": ITEM}),
    ("PUT", "/body/mixed/7?q=x&q=y", {"json": {}}),
    ("PUT", "/body/mixed/1.5", {"json": {"name": "a"}}),
    ("POST", "/body/optional", {"json": ITEM}),
    ("POST", "/body/optional", {"json": None}),
    ("POST", "/body/optional", {}),
    ("POST", "/body/several", {"json": {"item": ITEM, "person": {"name": "b"}, "importance": 2}}),
    ("POST", "/body/several", {"json": {"item": ITEM, "importance": 0}}),
    ("POST", "/body/embed", {"json": {"item": {"name": "Ada"}}}),
    ("POST", "/body/embed", {"json": {"name": "Ada"}}),
    ("POST", "/body/embed-default", {"json": {"item": {"name": "Ada"}}}),
    ("POST", "/body/embed-default", {"json": {}}),
    ("POST", "/body/embed-alias", {"json": {"u": {"name": "Ada"}}}),
    ("POST", "/body/alias", {"json": {"name": "Ada"}}),
    ("POST", "/body/alias", {"json": {"u": {"name": "Ada"}}}),
    ("POST", "/body/scalar", {"json": "Ada"}),
    ("POST", "/body/scalar", {"json": "Ada Lovelace"}),
    ("POST", "/body/list", {"json": [{"url": "u"}, {"url": "v", "name": "w"}]}),
    ("POST", "/body/list", {"json": [{"url": 1}, {}]}),
    ("POST", "/body/dict", {"json": {"1": 2, "3": 4.5}}),
    ("POST", "/body/dict", {"json": {"x": "y"}}),
    ("POST", "/body/any", {"json": {"a": [1, None]}}),
    ("POST", "/body/any", {"json": None}),
    ("POST", "/body/union", {"json": {"kind": "cat", "lives": 9}}),
    ("POST", "/body/union", {"json": {"kind": "cow"}}),
    ("POST", "/body/union-body", {"json": {"kind": "dog", "bark": "wow"}}),
    ("POST", "/body/union-body", {"json": {"bark": "wow"}}),
    ("POST", "/body/aliased", {"json": {"fullName": "Ada", "sizeIn": 2}}),
    ("POST", "/body/aliased", {"json": {"full_name": "Ada", "size": 2}}),
    ("POST", "/body/checked", {"json": {"first": "a", "second": "a"}}),
    ("POST", "/body/checked", {"json": {"first": "a", "second": "b"}}),
    ("POST", "/body/strict", {"json": {"count": 1}}),
    ("POST", "/body/strict", {"json": {"count": "1", "more": 1}}),
    ("POST", "/body/root", {"json": ["a"]}),
    ("POST", "/body/root", {"json": [1]}),
    ("POST", "/body/dataclass", {"json": {"name": "a"}}),
    ("POST", "/body/dataclass", {"json": {"tags": 1}}),
    ("POST", "/body/limited", {"json": {"name": "a"}}),
    ("POST", "/body/limited", {"json": {"name": "a" * 20}}),
    ("PATCH", "/body/update", {"json": ITEM}),
    ("DELETE", "/body/deleted", {"json": {"name": "a"}}),
    ("POST", "/depends/noted-body?note=n", {"json": {"text": "t"}}),
    ("POST", "/depends/noted-body", {"json": {}}),
    ("POST", "/error/own", {"json": {"name": "read again"}}),
    ("POST", "/small/body", {"json": {"name": "a"}}),
    ("POST", "/small/body", {"json": {"name": "a" * 20}}),
    ("POST", "/status/created?name=a", {}),
    ("POST", "/status/created", {}),
    ("DELETE", "/status/nothing", {}),
    ("DELETE", "/status/something", {}),
    ("PUT", "/status/changed/new", {}),
    ("PUT", "/status/changed/old", {}),
    ("POST", "/form", {"data": {"username": "a", "age": ""}}),
    ("POST", "/form", {"data": {"age": "x"}}),
    ("POST", "/form/model", {"data": {"name": "a", "password": "b"}}),
    ("POST", "/form/limits", {"data": {"a": "1", "b": "2", "c": "3"}}),
    ("POST", "/file", {"files": {"data": b"12345"}}),
    (
        "POST",
        "/files",
        {"files": [("uploads", ("a", b"1")), ("uploads", ("b", b"22"))], "data": {"token": "t"}},
    ),
    ("POST", "/files", {"data": {"token": "t"}}),
]
# What the house refuses, or answers in a way of its own, and with which status.
OWN_ANSWERS = {
    # A plain word is no id: its path belongs to a route for words, and else to none.
    "GET /path/number/x": 404,
    "GET /tenants/t/things/x": 404,
    # A path has no control characters.
    **dict.fromkeys(("GET /path/text/a%0A", "GET /path/file/a%0Ab", "GET /path/me%0A"), 400),
}
# What the house adds to answers, and to the document.
ADDED = {
    *("x-request-id", "server-timing", "etag", "cache-control", "vary", "x-content-type-options"),
}
VOLATILE = {"x-request-id", "server-timing", "date"}


@pytest.fixture(scope="session")
async def apps(settings):
    """Plain FastAPI, the service, and the service that goes without its short ways."""
    made = []
    for make in (None, Router, Router):
        app = build_app(settings, name="Documented", version="1") if make else plain_app()
        mount(app, make or APIRouter)
        made.append(app)
    _, short, long = made
    async with short.router.lifespan_context(short), long.router.lifespan_context(long):
        yield made


def plain_app():
    return FastAPI(
        title="Documented",
        version="1",
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )


async def ask(app, method, path, root_path="", **options):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=root_path)
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.request(method, f"http://test{path}", **options)


@pytest.fixture
def ask_all(apps, monkeypatch):
    async def ask_all(method, path, **options):
        plain, short, long = apps
        answers = [await ask(plain, method, path, **options)]
        answers.append(await ask(short, method, path, **options))
        with monkeypatch.context() as patch:
            patch.setattr("kernel.fast.routing.OFF", {*OFF, "plan"})
            answers.append(await ask(long, method, path, **options))
        return answers

    return ask_all


@pytest.mark.parametrize(
    ("method", "path", "options"),
    REQUESTS,
    ids=[f"{number} {method} {path}" for number, (method, path, _) in enumerate(REQUESTS)],
)
async def test_the_service_answers_as_fastapi_does(ask_all, method, path, options):
    plain, short, long = await ask_all(method, path, **options)
    assert exactly(short) == exactly(long)
    expected = OWN_ANSWERS.get(f"{method} {path}", plain.status_code)
    assert short.status_code == expected
    is_told = plain.status_code < 400 or "json" in plain.headers["content-type"]
    if expected == plain.status_code and is_told:
        assert told(short) == told(plain)
    if expected == plain.status_code:
        assert short.headers.keys() - ADDED == plain.headers.keys() - ADDED


async def test_behind_a_prefix_it_answers_the_same(apps):
    for path in GETS:
        # All three, as some of the operations remember what they were asked.
        plain, short, long = [await ask(app, "GET", f"/api{path}", "/api") for app in apps]
        assert [exactly(short), path] == [exactly(long), path]
        if f"GET {path}" not in OWN_ANSWERS:
            assert [short.status_code, path] == [plain.status_code, path]
            assert short.status_code >= 400 or told(short) == told(plain)


async def test_head_is_get_without_a_body(apps):
    for app in apps[1:]:
        for path in ("/path/text/a", "/answer/filtered", "/path/number/0"):
            get, head = await ask(app, "GET", path), await ask(app, "HEAD", path)
            assert (head.status_code, head.content) == (get.status_code, b"")
            assert head.headers.keys() == get.headers.keys()


def test_many_of_these_operations_have_a_short_way(apps):
    ways = {"short": 0, "long": 0}
    for context in iter_route_contexts(apps[1].routes):
        try:
            ways["short"] += bool(steps_of(context))
        except (NeedsFastAPI, AttributeError):
            ways["long"] += 1
    assert ways["short"] > 60
    assert ways["long"] > 60


@pytest.mark.parametrize("path", ["/socket/room?q=7", "/socket/room?q=x", "/socket"])
async def test_a_socket_is_served_beside_operations(apps, path):
    plain, short, _ = [await converse(app, path) for app in apps]
    assert short == plain


async def converse(app, path):
    """What a socket is told, all in one."""
    path, _, query = path.partition("?")
    told, queue = [], [{"type": "websocket.connect"}]
    scope = {
        "type": "websocket",
        "path": path,
        "query_string": query.encode(),
        "headers": [],
        "scheme": "ws",
        "root_path": "",
    }

    async def receive():
        return queue.pop(0) if queue else {"type": "websocket.disconnect", "code": 1000}

    async def send(message):
        told.append(message)

    await app(scope, receive, send)
    # An id of the request is what the house adds.
    return [{**message, "reason": None, "headers": None} for message in told]


def test_the_document_says_what_fastapis_says(apps):
    plain, short = [app.openapi() for app in apps[:2]]
    assert short["paths"].keys() == plain["paths"].keys()
    for path, operations in plain["paths"].items():
        for method, operation in operations.items():
            assert without_additions(short["paths"][path][method]) == without_additions(operation)
    own = {"Problem", "Mistake", "HTTPValidationError", "ValidationError"}
    ours, plains = short["components"]["schemas"], plain["components"]["schemas"]
    assert {name: ours[name] for name in ours.keys() - own} == {
        name: plains[name] for name in plains.keys() - own
    }
    assert {**plain, "paths": 0, "components": 0} == {**short, "paths": 0, "components": 0}


def without_additions(operation):
    """The operation without the house's headers and answers."""
    headers = {"Idempotency-Key", "Prefer", "If-Match", "If-None-Match"}
    parameters = [each for each in operation.get("parameters", ()) if each["name"] not in headers]
    answers = {
        status: {name: value for name, value in answer.items() if name != "headers"}
        for status, answer in operation["responses"].items()
        if status[0] not in "45d" and status != "304" and answer.keys() - {"headers"}
    }
    return {**operation, "parameters": parameters, "responses": answers}


def exactly(answer):
    """The answer, but for what is of this very request."""
    headers = [
        (name, value) for name, value in answer.headers.multi_items() if name not in VOLATILE
    ]
    text = answer.text.replace(answer.headers.get("x-request-id", "-" * 32), "")
    return answer.status_code, sorted(headers), text


def told(answer):
    """What an answer tells: its body, or the errors in whichever form."""
    if answer.status_code < 400:
        own = {name: value for name, value in answer.headers.items() if name not in ADDED}
        return own, answer.content
    body = answer.json()
    mistakes = body.get("errors") or body.get("detail")
    if answer.status_code != 422:
        return mistakes
    return [
        (each["loc"], each["type"], each["msg"].removeprefix("Value error, ")) for each in mistakes
    ]
