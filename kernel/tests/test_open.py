"""What a team may have of its own without a line of the kernel: callers, errors, resources."""

import os
from base64 import b64decode, b64encode
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.security import HTTPBasic
from pydantic import BaseModel

import service
from kernel import (
    Admin,
    Conflict,
    CredentialScheme,
    CurrentUser,
    Dto,
    ErrorForm,
    Failure,
    Id,
    NotFound,
    Principal,
    Router,
    ServiceError,
    Session,
    Viewer,
    build_app,
    error_response,
    opened,
    require,
    resources_of,
)
from kernel.identity.callers import Credentials
from kernel.testing.callers import Caller

Accountant = Annotated[Principal, Depends(require("accountant", "manager"))]


class Who(Dto):
    id: int | None
    role: str | None = None


# Roles.


def larder():
    router = Router(prefix="/larder", tags=["larder"])

    @router.get("")
    async def read_larder(me: Accountant) -> Who:
        return Who(id=me.id, role=me.role)

    @router.get("/all")
    async def read_all_of_larder(me: Admin) -> Who:
        return Who(id=me.id, role=me.role)

    return router


@pytest.fixture
async def any_role(sql):
    """Let accounts have any role, as a further migration would."""
    rule = await sql.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'ck_users_role'"
    )
    await sql.execute("ALTER TABLE users DROP CONSTRAINT ck_users_role")
    yield
    await sql.execute("UPDATE users SET role = 'member'")
    await sql.execute(f"ALTER TABLE users ADD CONSTRAINT ck_users_role {rule}")


@pytest.mark.parametrize(
    ("role", "statuses"),
    [
        ("accountant", [200, 403]),
        ("manager", [200, 403]),
        ("member", [403, 403]),
        ("admin", [403, 200]),
    ],
)
async def test_a_role_lets_in_those_who_are_named_and_nobody_else(
    mount, any_role, sign_up, role, statuses
):
    async with mount(larder()) as client:
        client.headers.update((await sign_up("Carol", role)).headers)
        answers = [await client.get("/larder"), await client.get("/larder/all")]
    assert [answer.status_code for answer in answers] == statuses
    refused = next(each.json()["message"] for each in answers if each.status_code == 403)
    assert refused in {"only for the roles accountant, manager", "only for the role admin"}


def test_a_check_of_no_role_is_a_mistake():
    with pytest.raises(ValueError, match="at least"):
        require()


# Callers.


def whoami():
    router = Router(prefix="/who", tags=["who"])

    @router.get("")
    async def see(viewer: Viewer) -> Who:
        return Who(id=viewer and viewer.id)

    @router.post("")
    async def do(me: CurrentUser, session: Session) -> Who:
        return Who(id=me.id)

    return router


async def test_a_viewer_is_optional_and_an_invalid_credential_is_a_401(mount, alice):
    async with mount(whoami()) as client:
        assert (await client.get("/who")).json()["id"] is None
        client.headers.update(alice.headers)
        assert (await client.get("/who")).json()["id"] == alice.user_id
        client.headers["Authorization"] += "x"
        assert (await client.get("/who")).status_code == 401
        operation = client.app.openapi()["paths"]["/who"]["get"]
    assert operation["security"][0] == {}
    assert {"OAuth2PasswordBearer": []} in operation["security"]
    assert "401" in operation["responses"]


def _basic_credentials(request: Request):
    given = request.headers.getlist("authorization")
    return [each[6:] for each in given if each.lower().startswith("basic ")]


async def _authenticate(resources, rows, credential):
    name, _, password = b64decode(credential).decode().partition(":")
    return Principal(int(name), "member") if password == "sesame" else None


BASIC = CredentialScheme(HTTPBasic(), _basic_credentials, _authenticate)


@pytest.fixture
async def basic(settings, sql):
    """A service whose only credentials are names and passwords in each request."""
    app = build_app(settings, name="Basic Service", version="1.0", credentials=[BASIC])
    app.include_router(whoami())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        Caller(transport=transport, base_url="http://test") as client,
    ):
        client.app = app
        yield client


@pytest.mark.parametrize(("password", "status"), [("sesame", 200), ("wrong", 401)])
async def test_a_service_takes_the_credentials_that_it_names(basic, password, status):
    basic.headers["Authorization"] = "Basic " + b64encode(f"7:{password}".encode()).decode()
    for answer in (await basic.get("/who"), await basic.post("/who")):
        assert answer.status_code == status
        if status == 200:
            assert answer.json()["id"] == 7
    document = basic.app.openapi()
    assert list(document["components"]["securitySchemes"]) == ["HTTPBasic"]
    assert document["paths"]["/who"]["post"]["security"] == [{"HTTPBasic": []}]


async def test_a_service_does_not_take_others(basic, alice):
    basic.headers.update(alice.headers)
    assert (await basic.post("/who")).status_code == 401


async def test_the_document_tells_where_tokens_are_had_wherever_that_is_mounted(settings):
    for prefix in ("", "/v1"):
        app = build_app(settings, name="X", version="1", credentials=[service.auth.BEARER])
        app.include_router(service.auth.router, prefix=prefix)
        (scheme,) = app.openapi()["components"]["securitySchemes"].values()
        url = f"/{scheme['flows']['password']['tokenUrl']}"
        assert url == f"{prefix}/auth/token"
        assert "post" in app.openapi()["paths"][url]


# The name.


async def test_the_name_is_on_what_the_service_makes_and_opens(settings, sql):
    def create_app():
        app = build_app(settings, name="Cold Kitchen", version="3.1")
        for slice_ in ("auth", "keys", "users"):
            app.include_router(getattr(service, slice_).router)
        return app

    app = create_app()
    async with app.router.lifespan_context(app):
        resources = resources_of(app)
        assert (app.title, app.version, resources.slug) == ("Cold Kitchen", "3.1", "cold-kitchen")
        await resources.reader.fetch(_one())
        names = await sql.fetch("SELECT DISTINCT application_name FROM pg_stat_activity")
    assert f"cold-kitchen reader {os.getpid()}" in {name for (name,) in names}


def _one():
    from sqlalchemy import literal, select  # noqa: PLC0415

    return select(literal(1).label("one"))


# Errors.


class PaymentRequired(ServiceError):
    status = 402


class Errors(BaseModel):
    errors: dict[str, list[str]]


class Tree(BaseModel):
    branches: list["Tree"]


def in_house_form(failure: Failure):
    mistakes = {str(each["loc"][-1]): [each["msg"]] for each in failure.extras.get("errors", ())}
    return {"errors": mistakes or {"body": [failure.message]}}


def pantry(errors=None):
    router = Router(prefix="/pantry", tags=["pantry"], **({"errors": errors} if errors else {}))

    @router.get("/{jar_id}", responses={402: error_response(402)})
    async def get_jar(jar_id: Id) -> Who:
        if jar_id == 1:
            raise PaymentRequired("pay first")
        if jar_id == 2:
            raise ZeroDivisionError
        raise NotFound("jar", jar_id)

    @router.post("")
    async def fill_jar(me: CurrentUser, session: Session) -> Who:
        return Who(id=me.id)

    return router


async def test_an_error_may_have_any_status(mount):
    async with mount(pantry()) as client:
        answer = await client.get("/pantry/1")
        known = client.app.openapi()["paths"]["/pantry/{jar_id}"]["get"]["responses"]
    told = answer.json()
    assert (answer.status_code, told["title"], told["error"]) == (
        402,
        "Payment Required",
        "payment_required",
    )
    assert known["402"]["description"] == "Payment Required"


@pytest.mark.parametrize("root_path", ["", "/api"], ids=["the short way", "FastAPI's"])
async def test_a_router_may_have_errors_of_another_form(mount, root_path):
    async with mount(pantry(ErrorForm(Errors, in_house_form))) as client:
        client._transport.root_path = root_path
        answers = {
            402: await client.get("/pantry/1"),
            500: await client.get("/pantry/2"),
            404: await client.get("/pantry/3"),
            422: await client.get("/pantry/1_0"),
            401: await client.post("/pantry"),
            405: await client.put("/pantry/1"),
            413: await client.post("/pantry", content=b"x" * 2**21),
        }
        for status, answer in answers.items():
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/json"
            assert answer.json().keys() == {"errors"}
        assert answers[422].json() == {"errors": {"jar_id": ["should be an integer"]}}
        elsewhere = await client.get("/nowhere")
        document = client.app.openapi()
        no_id = await client.get("/pantry/x")
    assert (no_id.status_code, no_id.json().keys()) == (404, {"errors"})
    assert elsewhere.headers["content-type"] == "application/problem+json"
    responses = document["paths"]["/pantry"]["post"]["responses"]
    form = {"application/json": {"schema": {"$ref": "#/components/schemas/Errors"}}}
    assert {status for status in responses if responses[status].get("content") != form} == {"200"}
    assert document["components"]["schemas"]["Errors"]["required"] == ["errors"]


# Resources.


class Oven:
    is_hot = False


@asynccontextmanager
async def heated(app: FastAPI):
    oven = Oven()
    oven.is_hot = True
    resources_of(app).put(oven)
    yield
    oven.is_hot = False


def bakery():
    router = Router(prefix="/bakery", tags=["bakery"], lifespan=heated)

    @router.get("")
    async def bake(oven: Annotated[Oven, Depends(opened(Oven))]) -> Who:
        return Who(id=int(oven.is_hot))

    return router


async def test_a_slice_opens_what_it_needs(mount):
    async with mount(bakery()) as client:
        assert (await client.get("/bakery")).json()["id"] == 1
        oven = resources_of(client.app).get(Oven)
    assert not oven.is_hot


def test_a_service_that_is_not_running_says_so(settings):
    resources = resources_of(build_app(settings, name="Idle", version="1"))
    with pytest.raises(RuntimeError, match="is not running"):
        _ = resources.writer
    assert not hasattr(resources, "writes")


async def test_what_nobody_has_opened_is_told_by_its_name(app):
    with pytest.raises(RuntimeError, match="no Oven is open"):
        resources_of(app).get(Oven)


def test_a_resource_is_found_by_the_class_that_it_was_put_under(settings):
    class Grill(Oven): ...

    resources = resources_of(build_app(settings, name="Grills", version="1"))
    with resources.until_closed():
        resources.put(Grill(), Oven)
        assert isinstance(resources.get(Oven), Grill)
        with pytest.raises(RuntimeError, match="there is a Oven already"):
            resources.put(Oven())
    with pytest.raises(RuntimeError, match="no Oven is open"):
        resources.get(Oven)


# Mistakes of a team's, which are refused when the service is put together.


@pytest.mark.parametrize("code", [99, 200, 204, 304, 600])
def test_the_status_of_an_error_is_from_400_to_599(code):
    with pytest.raises(TypeError, match="from 400 to 599"):
        type("Odd", (ServiceError,), {"status": code})


async def _nobody(resources, rows, credential):
    return None


def test_schemes_have_names_of_their_own(settings):
    one, other = (
        CredentialScheme.header("X-One", _nobody),
        CredentialScheme.header("X-Other", _nobody),
    )
    app = build_app(settings, name="Keys", version="1", credentials=[one, other])
    assert [*app.openapi()["components"]["securitySchemes"]] == ["X-One", "X-Other"]
    with pytest.raises(ValueError, match="two credential schemes have one name"):
        build_app(settings, name="Keys", version="1", credentials=[one, one])


def test_a_schema_of_a_form_has_a_name_of_its_own(settings):
    class Who(BaseModel):  # as the answers of the others are called
        errors: list[str]

    app = build_app(settings, name="Forms", version="1")
    app.include_router(whoami())
    app.include_router(pantry(ErrorForm(Who, in_house_form)))
    with pytest.raises(ValueError, match="two schemas are called Who"):
        app.openapi()


def test_an_operation_of_a_service_without_credentials_says_nothing_of_them(settings):
    app = build_app(settings, name="Open", version="1")
    app.include_router(whoami())
    assert "security" not in app.openapi()["paths"]["/who"]["post"]


# Mistakes that show when they are made.


@pytest.mark.parametrize(
    "made", [lambda _: 1 / 0, lambda _: {"errors": float("nan")}], ids=["raises", "is no JSON"]
)
async def test_a_form_that_fails_is_an_error_in_the_houses_form(mount, log, made):
    async with mount(pantry(ErrorForm(Errors, made))) as client:
        answer = await client.get("/pantry/3")
    assert (answer.status_code, answer.json()["error"]) == (500, "internal_server_error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    (line,) = log.lines("ERROR")
    assert line["message"] == "an error could not be written in its form"


async def test_an_errors_extras_are_what_json_can_be_made_of(mount):
    router = Router(prefix="/extras", tags=["extras"])

    @router.get("")
    async def get() -> Who:
        raise Conflict("later", until=datetime(2030, 1, 2, tzinfo=UTC), price=Decimal("1.50"))

    async with mount(router) as client:
        answer = await client.get("/extras")
    told = answer.json()
    assert (answer.status_code, told["until"], told["price"]) == (
        409,
        "2030-01-02T00:00:00Z",
        "1.50",
    )


def shelf(**options):
    router = Router(prefix="/shelf", tags=["shelf"], **options)

    @router.post("", responses={409: error_response(409, left=int, until=datetime | None)})
    async def take() -> Who:
        raise Conflict("two are left", left=2, until=None)

    return router


async def test_further_members_of_an_error_are_described(mount):
    async with mount(shelf()) as client:
        told = (await client.post("/shelf")).json()
        document = client.app.openapi()
    answer = document["paths"]["/shelf"]["post"]["responses"]["409"]
    problem, more = answer["content"]["application/problem+json"]["schema"]["allOf"]
    assert problem == {"$ref": "#/components/schemas/Problem"}
    assert (told["left"], told["until"]) == (2, None)
    assert more["properties"]["left"] == {"type": "integer"}
    assert more["required"] == ["left", "until"]


async def test_another_form_says_itself_what_becomes_of_further_members(mount):
    async with mount(shelf(errors=ErrorForm(Errors, in_house_form))) as client:
        answer = client.app.openapi()["paths"]["/shelf"]["post"]["responses"]["409"]
    assert answer == error_response(409, ErrorForm(Errors, in_house_form))


def test_a_member_whose_schema_needs_others_is_refused():
    with pytest.raises(TypeError, match="failure: the type of an error's member"):
        error_response(409, failure=list[Errors] | dict[str, Tree])


async def test_a_scheme_that_reads_a_text_is_told_so(basic, log):
    scheme = CredentialScheme(HTTPBasic(), lambda _: "abc", _authenticate)
    resources = resources_of(basic.app)
    resources._own[Credentials] = Credentials((scheme,))
    assert (await basic.post("/who")).status_code == 500
    assert "should return a list" in log.lines("ERROR")[0]["exception"]


async def test_a_router_of_fastapis_own_has_no_session(mount, log):
    router = APIRouter(prefix="/plain", tags=["plain"])

    @router.post("")
    async def write(session: Session) -> Who:
        return Who(id=1)

    async with mount(router) as client:
        assert (await client.post("/plain")).status_code == 500
    assert "its router is not the kernel's Router" in log.lines("ERROR")[0]["exception"]
