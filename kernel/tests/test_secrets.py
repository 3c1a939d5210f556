"""Seven secrets are driven through every way to fail; none may be told to anybody."""

import io
import json
import logging
from functools import wraps

import httpx
import pytest
from pydantic import SecretStr

from kernel.data.models import Dto, Secret
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.logs import JsonFormatter, configure_logging
from kernel.settings import Settings
from kernel.tests.app import PATHS, account_body, create_app

CANARIES = {
    "database password": "canary-database-password",
    "token secret": "canary-token-secret-of-32-bytes-and-more",
    "password": "canary-password",
    "token": "canary-token",
    "api key": "canary-api-key",
    "authorization": "canary-authorization",
    "query": "canary-query",
}
JSON = {"Content-Type": "application/json"}
BEARER = {"Authorization": f"Bearer {CANARIES['token']}"}
KEY = {"X-API-Key": CANARIES["api key"]}
BASIC = {"Authorization": f"Basic {CANARIES['authorization']}"}
QUERY = {"q": CANARIES["query"], "x": CANARIES["query"]}
USER = account_body(email="a@example.com", full_name="A", password=CANARIES["password"])
FORM = {"username": "a@example.com", "password": CANARIES["password"]}
TOKEN = {"refresh_token": CANARIES["token"]}


@pytest.fixture
def told():
    """Everything that is logged, at DEBUG, and everything that is answered."""
    stream, answers = io.StringIO(), []
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    configure_logging("DEBUG")
    logging.getLogger().addHandler(handler)
    yield stream, answers
    logging.getLogger().removeHandler(handler)
    configure_logging("INFO")


async def drive(client, told):
    """Send the canaries down every path that fails; a few succeed."""
    for method, path, options in (
        ("POST", "/users", {"json": USER}),
        ("POST", "/users", {"json": USER}),
        ("POST", "/users", {"json": USER | {"email": "x"}}),
        ("POST", "/users", {"json": [USER]}),
        ("POST", "/users", {"content": json.dumps(USER)[:-1], "headers": JSON}),
        ("POST", "/users", {"content": json.dumps(USER), "headers": {"Content-Type": "text/x"}}),
        ("POST", "/users", {"content": json.dumps(USER).encode("utf-16"), "headers": JSON}),
        ("POST", "/users", {"json": USER | {"full_name": CANARIES["password"] * 80_000}}),
        ("POST", "/users", {"json": USER | {"password": CANARIES["password"] + "\x00"}}),
        ("POST", PATHS["create_token"], {"data": FORM | {"password": CANARIES["password"] + "x"}}),
        ("POST", PATHS["create_token"], {"data": {"password": CANARIES["password"]}}),
        ("POST", PATHS["create_token"], {"json": FORM}),
        ("POST", PATHS["refresh_token"], {"json": TOKEN}),
        ("POST", PATHS["refresh_token"], {"json": {"refresh_token": CANARIES["token"] * 40}}),
        ("POST", PATHS["sign_out"], {"json": TOKEN}),
        ("GET", "/users/me", {"headers": BEARER}),
        ("GET", "/users/me", {"headers": KEY}),
        ("GET", "/users/me", {"headers": BASIC}),
        ("PATCH", "/users/me", {"headers": BEARER, "json": {"password": CANARIES["password"]}}),
        ("GET", "/peelings", {"headers": BEARER, "params": QUERY}),
        ("GET", "/nowhere", {"headers": BASIC, "params": QUERY}),
        ("PUT", "/peelings", {"headers": KEY, "params": QUERY}),
        ("GET", "/readyz", {"headers": BEARER, "params": QUERY}),
        ("GET", "/peelings", {"headers": BEARER, "params": {"cursor": CANARIES["query"]}}),
        ("GET", "/crash", {"headers": BEARER, "params": QUERY}),
    ):
        told[1].append(await client.request(method, path, **options))


async def crash(q: str) -> None:
    raise ValueError(q)


def assert_nothing_is_told(told, also_fails=()):
    log, answers = told[0].getvalue(), told[1]
    statuses = {answer.status_code for answer in answers}
    assert len(answers) >= 25
    assert statuses >= {*also_fails, 404, 405, 413, 415, 422, 500}
    assert log.count("\n") >= 25
    everything = log + "".join(answer.text + str(answer.headers) for answer in answers)
    assert [name for name, canary in CANARIES.items() if canary in everything] == []


@pytest.mark.parametrize("state", ["up", "down"])
async def test_no_secret_is_logged_or_answered(settings, sql, told, state):
    url = settings.database_url
    if state == "down":
        password = CANARIES["database password"]
        url = SecretStr(f"postgresql://user:{password}@127.0.0.1:1/canary")
    secret = SecretStr(CANARIES["token secret"])
    app = create_app(settings.model_copy(update={"database_url": url, "jwt_secret": secret}))
    configure_logging("DEBUG")
    app.add_api_route("/crash", crash)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await drive(client, told)
    assert_nothing_is_told(told, {503} if state == "down" else {401, 409, 400})


async def test_answers_that_hold_secrets_do_so_once(alice, sql):
    made = (await alice.post("/keys", json={"name": "x"}, headers={"Idempotency-Key": "k"})).json()
    again = await alice.post("/keys", json={"name": "x"}, headers={"Idempotency-Key": "k"})
    assert (again.status_code, made["key"] in again.text) == (409, False)
    assert made["key"] not in str(await sql.fetch("SELECT * FROM idempotency_keys"))
    assert (await alice.get("/keys")).json()["items"][0].keys().isdisjoint({"key", "digest"})


async def test_in_production_the_api_is_not_described_to_strangers(serve):
    async with serve(env="prod") as client:
        for path in ("/docs", "/openapi.json", "/redoc", "/docs/oauth2-redirect"):
            assert (await client.get(path)).status_code == 404


@pytest.mark.house
async def test_no_other_origin_is_let_in(client):
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    answer = await client.options("/peelings", headers=preflight)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_settings_tell_no_secret():
    settings = Settings(
        _env_file=None,
        database_url=f"postgresql://user:{CANARIES['database password']}@localhost/n",
        jwt_secret=CANARIES["token secret"],
    )
    assert "canary" not in repr(settings)


class Shown(Dto):
    token: Secret


class Shows:
    """An operation that is an instance, and says nothing of its answer."""

    async def __call__(self, me: CurrentUser):  # noqa: ARG002  # only who asks for a caller takes keys
        return Shown(token="canary")


def decorated(call):
    @wraps(call)
    def run(*args, **kwargs):
        return call(*args, **kwargs)

    return run


@decorated
async def shows(me: CurrentUser):
    return Shown(token="canary")


@pytest.mark.parametrize("endpoint", [Shows(), shows, decorated(Shows().__call__)])
async def test_an_undeclared_secret_is_kept_by_nobody_however_its_operation_is_made(
    mount, alice, sql, endpoint
):
    router = Router(prefix="/shown", tags=["shown"])
    router.post("", name="shows")(endpoint)
    headers = {**alice.headers, "Idempotency-Key": "k"}
    async with mount(router) as client:
        first, again = [await client.post("/shown", headers=headers) for _ in range(2)]
    assert (first.status_code, first.json()) == (200, {"token": "canary"})
    assert first.headers["cache-control"] == "no-store"
    assert (again.status_code, "canary" in again.text) == (409, False)
    assert "canary" not in str(await sql.fetch("SELECT * FROM idempotency_keys"))
