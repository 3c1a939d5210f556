"""An exception is an answer in the house's form, whatever its status and its detail, wherever it is
raised."""

import copy
import pickle
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import fastapi
import httpx
import pytest
import starlette.exceptions
from fastapi import BackgroundTasks, Depends, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyCookie, HTTPBasic, HTTPBearer
from pydantic import BaseModel

from kernel import errors
from kernel.errors import Forbidden, NotFound, ServiceError, Unauthorized
from kernel.http.application import build_app
from kernel.http.dependencies import Session
from kernel.http.problems import ErrorForm
from kernel.http.router import Router
from kernel.identity.callers import CredentialScheme, CurrentUser
from kernel.tests.app import create_app
from kernel.tests.peelings.models import Peeling, PeelingPublic

FORM = {"error", "message", "status", "title", "detail", "request_id"}
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Point(BaseModel):
    x: float
    at: datetime | None = None


@dataclass
class Place:
    name: str


@pytest.fixture
def raising(mount):
    """Serve `GET /peels/{number}` and `POST /peels/{number}`, which raise the exceptions."""

    def raising(*exceptions, **options):
        router = Router(prefix="/peels", tags=["peels"], **options)

        @router.api_route("/{number}", methods=["GET", "POST"])
        async def fail(number: int) -> None:
            raise exceptions[number]

        return mount(router)

    return raising


async def answers(raising, *exceptions, method="GET"):
    async with raising(*exceptions) as client:
        return [await client.request(method, f"/peels/{n}") for n in range(len(exceptions))]


# Details.

DETAILS = [
    ("words", None),
    ("", None),
    (None, None),
    ({"any": ["json"]}, {"any": ["json"]}),
    ([{"loc": ["a"]}], [{"loc": ["a"]}]),
    ([], []),
    ({}, {}),
    (0, 0),
    (7.5, 7.5),
    (True, True),
    (Point(x=1, at=NOON), {"x": 1, "at": "2030-01-01T12:00:00Z"}),
    ([Point(x=1)], [{"x": 1, "at": None}]),
    (Place("here"), {"name": "here"}),
    (NOON, "2030-01-01T12:00:00Z"),
    (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (b"bytes", "bytes"),
    (b"\xff\xfe", "__4="),
    ({UUID(int=7): {1}}, {"00000000-0000-0000-0000-000000000007": [1]}),
    ({"a": float("nan"), "b": [float("inf")]}, {"a": None, "b": [None]}),
    ({"a": "\ud800"}, {"a": "\ud800"}),
    ({"error": "mine", "status": 1}, {"error": "mine", "status": 1}),
]


@pytest.mark.parametrize(
    "exception",
    [fastapi.HTTPException, starlette.exceptions.HTTPException],
    ids=["fastapi", "starlette"],
)
async def test_a_detail_may_be_any_json(raising, exception):
    told = await answers(raising, *[exception(418, detail=detail) for detail, _ in DETAILS])
    for (detail, expected), answer in zip(DETAILS, told, strict=True):
        body = answer.json()
        assert answer.status_code == body["status"] == 418
        assert answer.headers["content-type"] == "application/problem+json"
        assert body["request_id"] == answer.headers["x-request-id"]
        assert (body["title"], body["error"]) == ("I'm a Teapot", "i'm_a_teapot")
        assert (
            body["message"] == body["detail"] == ("words" if detail == "words" else body["title"])
        )
        assert body.get("details") == expected
        assert body.keys() == FORM | (set() if expected is None else {"details"})


async def test_a_detail_that_is_no_json_is_a_mistake_of_ours(raising, log):
    (answer,) = await answers(raising, HTTPException(418, detail=object()))
    assert answer.status_code == 500
    assert [line["message"] for line in log.lines("ERROR")] == ["unhandled error"]


async def test_another_form_has_the_details_too(raising):
    class Ours(BaseModel):
        status: int
        text: str
        more: Any

    form = ErrorForm(
        Ours,
        lambda failure: {
            "status": failure.status, "text": failure.message, "more": {**failure.extras},
        },
    )  # fmt: skip
    async with raising(HTTPException(418, {"a": 1}), errors=form) as client:
        answer = await client.get("/peels/0")
    told = {"status": 418, "text": "I'm a Teapot", "more": {"details": {"a": 1}}}
    assert (answer.status_code, answer.json()) == (418, told)


# Statuses and headers.


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_status_may_be_any(raising, method):
    statuses = [200, 201, 299, 301, 307, 400, 402, 409, 499, 500, 501, 599, HTTPStatus.GONE]
    told = await answers(raising, *map(HTTPException, statuses), method=method)
    for status, answer in zip(statuses, told, strict=True):
        assert answer.status_code == answer.json()["status"] == status
        assert answer.json().keys() == FORM
        assert answer.json()["message"] == answer.json()["title"] != ""


async def test_statuses_without_a_body_have_none(raising):
    headers = {"ETag": '"1"'}
    statuses = [100, 103, 204, 205, 304]
    for detail in ("words", {"any": "json"}):
        exceptions = [HTTPException(status, detail, headers) for status in statuses]
        for status, answer in zip(statuses, await answers(raising, *exceptions), strict=True):
            assert (answer.status_code, answer.content) == (status, b"")
            assert answer.headers["etag"] == '"1"'
            assert "content-type" not in answer.headers


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (307, {"Location": "/elsewhere"}),
        (401, {"WWW-Authenticate": 'Digest realm="x"'}),
        (401, {"www-authenticate": 'Digest realm="x"'}),
        (429, {"Retry-After": "7"}),
        (503, {"Retry-After": "7", "X-Of": "ours"}),
    ],
)
async def test_headers_are_kept_and_each_is_there_once(raising, status, headers):
    class Ours(ServiceError):
        default_headers = {name.upper(): "default" for name in headers}  # noqa: RUF012

    Ours.status = max(status, 400)
    told = await answers(
        raising, HTTPException(status, headers=headers), Ours("x", headers=headers)
    )
    for answer in told:
        for name, text in headers.items():
            assert answer.headers.get_list(name) == [text]


async def test_a_header_does_not_lie_about_the_body(raising):
    lies = {"content-type": "text/html", "Content-Length": "3", "retry-after": "1"}
    (answer,) = await answers(raising, HTTPException(418, headers={**lies, "Retry-After": "2"}))
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers.get_list("retry-after") == ["2"]


# Who is asked for what (RFC 9110 §11.6.1).


class OfNoName(HTTPBearer):
    """As FastAPI's manual has it, for those who want the old 403."""

    def make_not_authenticated_error(self):
        return HTTPException(403)


@pytest.mark.house  # elsewhere there may be other schemes
async def test_a_401_names_the_schemes_that_the_service_takes(raising):
    for answer in await answers(raising, HTTPException(401), Unauthorized("who?")):
        assert answer.headers.get_list("www-authenticate") == ["Bearer, APIKey"]
    (other,) = await answers(raising, HTTPException(403))
    assert "www-authenticate" not in other.headers


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        ([], None),
        ([HTTPBasic(realm="kitchen")], 'Basic realm="kitchen"'),
        ([HTTPBasic(), APIKeyCookie(name="s"), APIKeyCookie(name="t", scheme_name="t")],
         "Basic, APIKey"),
        ([OfNoName()], None),
    ],
)  # fmt: skip
async def test_a_401_names_no_scheme_that_the_service_does_not_take(settings, security, expected):
    async def nobody(*_: Any) -> None: ...

    schemes = [CredentialScheme(each, lambda connection: [], nobody) for each in security]
    app = build_app(settings, name="x", version="1", credentials=schemes)

    @app.get("/me")
    async def who(me: CurrentUser) -> None: ...

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/me")
    assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, expected)


# Copies.


class OfTwo(ServiceError):
    status = 418

    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(f"{one} {two}", headers={"X-Of": "x"}, two=two)
        self.one = one


ERRORS = [
    NotFound("peeling", 7),
    OfTwo(1, two=2),
    errors.TooManyRequests("no", headers={"X-Of": "x"}, why=["so"]),
    *[
        kind("words", more=1)
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, ServiceError)
        and kind not in (NotFound, errors.TooManyRequests)
    ],
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_can_be_pickled_and_copied(error):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert_alike(pickle.loads(pickle.dumps(error, protocol)), error)  # noqa: S301  # our own
    assert_alike(copy.copy(error), error)
    assert_alike(copy.deepcopy(error), error)


def assert_alike(one, other):
    assert type(one) is type(other)
    assert (str(one), one.args, vars(one)) == (str(other), other.args, vars(other))
    assert one.status == other.status


def test_the_status_of_an_error_is_one_of_an_error():
    for status in (399, 600, 200):
        with pytest.raises(TypeError, match="from 400 to 599"):
            type("Ours", (ServiceError,), {"status": status})


async def test_an_error_may_have_any_status_of_an_error(raising):
    statuses = [400, 402, 418, 451, 499, 500, 511, 599]
    kinds = [type("Ours", (ServiceError,), {"status": status}) for status in statuses]
    told = await answers(raising, *[kind("words", more=[1]) for kind in kinds])
    assert [answer.status_code for answer in told] == statuses
    assert all(answer.json()["more"] == [1] for answer in told)


# Places.


def teapot(place):
    return HTTPException(418, {"in": place})


async def dependency() -> None:
    raise teapot("dependency")


def in_thread() -> None:
    raise teapot("thread")


async def before_yield():
    raise teapot("before")
    yield


async def after_yield():
    yield
    raise teapot("after")


async def instead():
    try:
        yield
    except ZeroDivisionError as error:
        raise teapot("instead") from error


async def add(session: Session, me: CurrentUser) -> None:
    await session.insert(Peeling, PeelingPublic, title="x", owner_id=me.id)


async def handler(_: Annotated[None, Depends(add)]) -> None:
    raise teapot("handler")


async def accepted(_: Annotated[None, Depends(add)]) -> None:
    raise HTTPException(202, {"in": "accepted"})


async def crash(_: Annotated[None, Depends(add)]) -> None:
    raise ZeroDivisionError


async def succeed(_: Annotated[None, Depends(add)]) -> None: ...


PLACES = {
    "dependency": (succeed, Depends(dependency)),
    "thread": (succeed, Depends(in_thread)),
    "before": (succeed, Depends(before_yield)),
    "after": (succeed, Depends(after_yield, scope="function")),
    "instead": (crash, Depends(instead)),
    "handler": (handler, Depends(add)),
    "accepted": (accepted, Depends(add)),
}


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a-key"}])
async def test_wherever_it_is_raised_it_undoes_the_work(mount, alice, sql, key):
    router = Router(prefix="/peeled_places")
    for place, (endpoint, part) in PLACES.items():
        router.post(f"/{place}", dependencies=[part])(endpoint)
    async with mount(router) as client:
        client.headers.update(alice.headers)
        for place in PLACES:
            answer = await client.post(f"/peeled_places/{place}", headers=key)
            status = 202 if place == "accepted" else 418
            assert (answer.status_code, answer.json()["details"]) == (status, {"in": place})
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 0
    assert await sql.fetchval("SELECT count(*) FROM idempotency_keys") == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [(HTTPException(418, {"a": 1}), 418), (Forbidden("no"), 403), (ZeroDivisionError(), 500)],
)
@pytest.mark.parametrize("kind", ["asgi", "http"])
async def test_what_a_middleware_raises_has_the_form_as_well(settings, error, status, kind):
    app = create_app(settings)

    if kind == "http":

        @app.middleware("http")
        async def fail(request, call_next):
            raise error
    else:

        async def fails(*_):
            raise error

        app.add_middleware(lambda app: fails)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/livez")
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"


async def fail() -> None:
    raise HTTPException(418, "too late")


async def fail_behind():
    yield
    await fail()


async def with_a_task(tasks: BackgroundTasks) -> str:
    tasks.add_task(fail)
    return "done"


async def with_a_dependency(_: Annotated[None, Depends(fail_behind)]) -> str:
    return "done"


@pytest.mark.parametrize("endpoint", [with_a_task, with_a_dependency])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_raised_behind_an_answer_is_logged_and_answers_nobody(
    mount, log, endpoint, method
):
    router = Router(prefix="/peels")
    router.api_route("", methods=[method])(endpoint)
    async with mount(router) as client:
        answer = await client.request(method, "/peels")
    assert (answer.status_code, answer.json()) == (200, "done")
    (line,) = log.lines("ERROR")
    assert "HTTPException" in line["exception"]
    assert "in fail" in line["exception"]


# Logs.


async def test_a_5xx_leaves_its_cause_in_the_log_and_a_4xx_no_line(raising, log):
    cause = ConnectionRefusedError(111, "Connection refused")
    exceptions = [HTTPException(502, {"secret": "canary"}), HTTPException(418, "canary")]
    exceptions[0].__cause__ = cause
    await answers(raising, *exceptions)
    (line,) = log.lines("WARNING", "ERROR")
    assert (line["message"], line["status"]) == ("Bad Gateway", 502)
    assert line["error"] == "ConnectionRefusedError"
    assert "ConnectionRefusedError: Connection refused" in line["exception"]
    assert "in fail" in line["exception"]
    assert "canary" not in str(line)


# Requests and answers that are not valid.

WRONG = {"x": "canary"}


@pytest.mark.parametrize(
    ("mistakes", "expected"),
    [
        ([{"loc": ("body", "a", 0), "type": "t", "msg": "m", "input": "canary", "ctx": {}}],
         [{"loc": ["body", "a", 0], "type": "t", "msg": "m"}]),
        ([{"msg": "m"}], [{"loc": [], "type": "value_error", "msg": "m"}]),
        ([{"loc": "a"}], [{"loc": ["a"], "type": "value_error", "msg": "is not valid"}]),
        ([{"loc": ["x" * 100, UUID(int=7)]}],
         [{"loc": ["x" * 64, str(UUID(int=7))], "type": "value_error", "msg": "is not valid"}]),
        (["words"], [{"loc": [], "type": "value_error", "msg": "words"}]),
        ([], []),
    ],
)  # fmt: skip
async def test_an_invalid_request_may_be_said_by_hand(raising, mistakes, expected):
    (answer,) = await answers(raising, RequestValidationError(mistakes, body={"a": "canary"}))
    assert (answer.status_code, answer.json()["errors"]) == (422, expected)
    assert "canary" not in answer.text


async def test_an_answer_that_is_not_valid_is_a_mistake_of_ours_and_told_without_values(mount, log):
    router = Router(prefix="/peels")

    @router.get("/model")
    async def give() -> Point:
        return WRONG

    @router.get("/own")
    async def validate() -> None:
        Point.model_validate(WRONG)

    async with mount(router) as client:
        for path in ("/peels/model", "/peels/own"):
            answer = await client.get(path)
            assert (answer.status_code, "canary" in answer.text) == (500, False)
    lines = log.lines("ERROR")
    assert [line["message"] for line in lines] == ["unhandled error"] * 2
    assert "canary" not in str(lines)
