"""Every failure has the one form, whoever made it, and tells nothing that it should not."""

import gzip
import json
from contextlib import suppress
from typing import Annotated

import asyncpg
import httpx
import pytest
from fastapi import Body, Depends, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy import literal, select

from kernel.http.dependencies import Session
from kernel.http.problems import failure_response, has_path
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser, get_principal
from kernel.tests.app import PATHS, create_app
from kernel.tests.articles.models import PeeledArticleTag
from kernel.tests.peelings.models import Peeling

FORM = {"error", "message", "status", "title", "detail", "request_id"}
MEGABYTE = 1024 * 1024


def assert_form(answer, status, error):
    body = answer.json()
    assert answer.status_code == body["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert body.keys() >= FORM
    assert body["error"] == error
    assert body["detail"] == body["message"]
    assert body["request_id"] == answer.headers["x-request-id"]


@pytest.fixture
async def faulty(settings, sql):
    """A client of a service with routes that fail in ways that ours should not."""
    router = Router(prefix="/faulty", tags=["faulty"])

    @router.get("/crash")
    async def crash() -> None:
        raise RuntimeError("boom")

    @router.post("/session")
    async def fail_in_session(session: Session, statement: str) -> None:
        await (await session.connection()).exec_driver_sql(statement)

    @router.post("/answer")
    async def answer_with_an_error(session: Session, me: CurrentUser) -> Response:
        session.add(Peeling(title="x", owner_id=me.id))
        await session.flush()
        return failure_response({}, 409, "made, but not to stay")

    @router.post("/swallow")
    async def swallow_an_error(session: Session) -> None:
        with suppress(asyncpg.PostgresError):
            await session.fetch(select(literal(1) / 0))

    @router.get("/session")
    async def get_with_session(session: Session) -> None: ...

    app = create_app(settings)
    app.include_router(router)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def test_a_transaction_that_has_failed_is_no_success_though_its_error_was_caught(faulty):
    assert_form(await faulty.post("/faulty/swallow"), 500, "internal_server_error")


async def test_an_unknown_path_is_not_found(client):
    assert_form(await client.get("/nowhere"), 404, "not_found")


async def test_a_trailing_slash_is_another_path_and_redirects_nowhere(client):
    assert_form(await client.get("/peelings/", headers={"Host": "evil.example"}), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/users", {"POST", "GET", "HEAD"}),
        ("/users/me", {"GET", "HEAD", "PATCH"}),
        ("/users/7", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("/livez", {"GET", "HEAD"}),
        (PATHS["create_token"], {"POST"}),
    ],
)
async def test_a_wrong_method_is_told_all_the_right_ones(client, path, allowed):
    answer = await client.request("PUT", path)
    assert_form(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


async def test_head_is_get_without_the_body(alice):
    get, head = await alice.get("/users/me"), await alice.head("/users/me")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    missing = await alice.head("/nowhere")
    assert (missing.status_code, missing.content) == (404, b"")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe{}",
        b'\xef\xbb\xbf{"title": "BOM"}',
        '{"title": "UTF-16"}'.encode("utf-16"),
        b'{"title": "\xc3\x28"}',
        b'{"title": "\\ud800"}',
        b'{"\\ud800": 1, "title": "x"}',
        b'{"title": NaN}',
        b'{"title": 1e999}',
        b'{"title": -Infinity}',
        b'{"title": ' + b"9" * 5000 + b"}",
        b'{"title": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b'{"title": "secret-canary", "title": null}',
        json.dumps({"secret-canary": "x" * 100_000, "title": 1}).encode(),
    ],
)
async def test_a_body_that_is_not_what_it_should_be_is_a_clear_4xx(alice, body):
    headers = {"Content-Type": "application/json"}
    answer = await alice.post("/peelings", content=body, headers=headers)
    error = {400: "bad_request", 422: "unprocessable_content"}[answer.status_code]
    assert_form(answer, answer.status_code, error)
    assert len(answer.content) < 2000
    assert "x" * 100 not in answer.text


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/xml", "", "json", "multipart/form-data", "a" * 5000]
)
async def test_a_body_of_another_media_type_is_unsupported(alice, media_type):
    headers = {"Content-Type": media_type}
    answer = await alice.post("/peelings", content=b'{"title": "x"}', headers=headers)
    assert_form(answer, 415, "unsupported_media_type")
    answer = await alice.post(PATHS["create_token"], json={"username": "x", "password": "y"})
    assert_form(answer, 415, "unsupported_media_type")


async def takes_json_of_its_own(
    data: Annotated[dict[str, int], Body(media_type="application/vnd.house+json")],
) -> dict[str, int]:
    return data


async def takes_plain_text(
    data: Annotated[str, Body(media_type="text/plain; charset=utf-8")],
) -> str:
    return data


async def takes_bytes(data: Annotated[bytes, Body(media_type="image/*")]) -> int:
    return len(data)


@pytest.mark.parametrize(
    ("takes", "media_type", "body", "answer"),
    [
        (takes_json_of_its_own, "application/vnd.house+json", b'{"a": 1}', {"a": 1}),
        (takes_json_of_its_own, "Application/Vnd.House+JSON; a=b", b'{"a": 1}', {"a": 1}),
        (takes_plain_text, "text/plain", b"Leek", "Leek"),
        (takes_bytes, "image/png", b"\x00\xff", 2),
    ],
)
async def test_a_body_is_of_the_media_type_that_its_operation_declares(
    mount, takes, media_type, body, answer
):
    router = Router(prefix="/declared", tags=["declared"])
    router.post("")(takes)
    async with mount(router) as client:
        given = await client.post("/declared", content=body, headers={"Content-Type": media_type})
        assert (given.status_code, given.json()) == (200, answer)
        for other in ("application/json", "application/xml"):
            given = await client.post("/declared", content=body, headers={"Content-Type": other})
            assert_form(given, 415, "unsupported_media_type")
        given = await client.post(
            "/declared",
            content='{"a": 1}'.encode("utf-16"),
            headers={"Content-Type": media_type},
        )
        assert given.status_code in ({400} if "json" in media_type.lower() else {200, 422})


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
async def test_a_compressed_body_is_unsupported(alice, coding):
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    answer = await alice.post("/peelings", content=b"\x1f\x8b\x08\x00", headers=headers)
    assert_form(answer, 415, "unsupported_media_type")
    headers["Content-Encoding"] = "identity"
    answer = await alice.post("/peelings", content=b'{"title": "x"}', headers=headers)
    assert answer.status_code == 201


class GzipRequest(Request):
    """As FastAPI's manual has it, "Custom Request and APIRoute class"."""

    async def body(self):
        if not hasattr(self, "_body"):
            body = await super().body()
            if "gzip" in self.headers.getlist("Content-Encoding"):
                body = gzip.decompress(body)
            self._body = body
        return self._body


class GzipRoute(APIRoute):
    def get_route_handler(self):
        original = super().get_route_handler()

        async def run(request):
            return await original(GzipRequest(request.scope, request.receive))

        return run


async def takes_numbers(numbers: Annotated[list[int], Body()]) -> int:
    return sum(numbers)


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
async def test_a_route_class_may_read_compressed_bodies(mount, alice, key):
    router = Router(prefix="/peeled_sums", tags=["peeled_sums"], route_class=GzipRoute)
    router.post("", dependencies=[Depends(get_principal)])(takes_numbers)
    headers = {**alice.headers, **key, "Content-Type": "application/json"}
    async with mount(router) as client:
        for _ in range(2):
            answer = await client.post(
                "/peeled_sums",
                content=gzip.compress(b"[1, 2]", mtime=0),  # which else is of this second
                headers={**headers, "Content-Encoding": "gzip"},
            )
            assert (answer.status_code, answer.json()) == (200, 3)
        assert ("idempotent-replayed" in answer.headers) == bool(key)
        other = {**key, "Idempotency-Key": "other"} if key else {}
        coded = {**headers, **other, "Content-Encoding": "gzip"}
        broken = await client.post("/peeled_sums", content=b"[1]", headers=coded)
        assert_form(broken, 400, "bad_request")
        if not key:
            assert (await client.post("/peeled_sums", json=[4], headers=headers)).json() == 4


async def test_a_charset_after_the_media_type_is_fine(alice):
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = await alice.post("/peelings", content=b'{"title": "x"}', headers=headers)
    assert answer.status_code == 201


async def chunks(size):
    for _ in range(size // 65536 + 1):
        yield b" " * 65536


@pytest.mark.parametrize("path", ["/peelings", PATHS["create_token"]])
async def test_a_body_over_the_limit_is_too_large_with_or_without_a_declared_length(alice, path):
    for body in (b" " * (MEGABYTE + 1), chunks(MEGABYTE)):
        media = "application/json" if path == "/peelings" else "application/x-www-form-urlencoded"
        answer = await alice.post(path, content=body, headers={"Content-Type": media})
        assert_form(answer, 413, "content_too_large")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/nowhere"), ("PUT", "/peelings"), ("GET", "/livez")]
)
async def test_a_large_body_that_nobody_reads_is_too_large_too(client, method, path):
    answer = await client.request(method, path, content=b" " * (MEGABYTE + 1))
    assert_form(answer, 413, "content_too_large")


async def test_a_declared_length_is_believed_before_a_byte_is_read(client):
    answer = await client.post("/peelings", content=b"1", headers={"Content-Length": "9" * 30})
    assert_form(answer, 413, "content_too_large")


@pytest.mark.parametrize(
    "path",
    [
        "/peelings/0",
        "/peelings/-1",
        f"/peelings/{2**63}",
        "/peelings/" + "9" * 4301,
        "/peelings/1_0",
        "/peelings/+1",
        "/peelings/%D9%A1",
        "/peelings/1.0",
        "/peelings/NaN",
        "/peelings?limit=0",
        "/peelings?limit=-1",
        "/peelings?limit=101",
        "/peelings?limit=1_0",
        f"/peelings?limit={2**63}",
        "/peelings?order=secret-canary",
        "/peelings?q=%00",
        "/peelings?q=" + "x" * 101,
        "/users?is_active=maybe",
    ],
)
async def test_a_value_out_of_range_is_unprocessable(alice, path):
    answer = await alice.get(path)
    assert_form(answer, 422, "unprocessable_content")
    assert "canary" not in answer.text
    assert all(mistake.keys() == {"loc", "type", "msg"} for mistake in answer.json()["errors"])


async def test_the_largest_id_is_merely_not_found(alice):
    assert_form(await alice.get(f"/peelings/{2**63 - 1}"), 404, "not_found")


async def test_a_crash_is_a_500_that_keeps_its_secrets(faulty, caplog):
    answer = await faulty.get("/faulty/crash", headers={"X-Request-ID": "crash-1"})
    assert_form(answer, 500, "internal_server_error")
    assert answer.json()["request_id"] == "crash-1"
    assert "boom" not in answer.text
    assert [record.getMessage() for record in caplog.records if record.exc_info] == [
        "unhandled error"
    ]


async def test_a_handler_that_answers_with_an_error_leaves_nothing_behind(faulty, alice, sql):
    headers = {**alice.headers, "Idempotency-Key": "a-key"}
    assert_form(await faulty.post("/faulty/answer", headers=headers), 409, "conflict")
    assert await sql.fetchval("SELECT count(*) FROM peelings") == 0
    assert await sql.fetchval("SELECT count(*) FROM idempotency_keys") == 0


async def test_a_get_has_no_session(faulty):
    assert_form(await faulty.get("/faulty/session"), 500, "internal_server_error")


@pytest.mark.parametrize(
    ("sqlstate", "status", "error"),
    [
        ("23505", 409, "conflict"),
        ("23503", 409, "conflict"),
        ("23502", 422, "unprocessable_content"),
        ("23514", 422, "unprocessable_content"),
        ("22003", 500, "internal_server_error"),
        ("22P02", 500, "internal_server_error"),
        ("40001", 409, "conflict"),
        ("40P01", 409, "conflict"),
        ("55P03", 409, "conflict"),
        ("57014", 503, "service_unavailable"),
        ("08006", 503, "service_unavailable"),
        ("53300", 503, "service_unavailable"),
        ("57P01", 503, "service_unavailable"),
        ("25006", 503, "service_unavailable"),
        ("42P01", 500, "internal_server_error"),
        ("42703", 500, "internal_server_error"),
        ("22012", 500, "internal_server_error"),
        ("42601", 500, "internal_server_error"),
        ("P0001", 500, "internal_server_error"),
    ],
)
async def test_each_refusal_of_the_database_has_its_answer(faulty, sqlstate, status, error):
    raise_it = f"DO $$ BEGIN RAISE 'secret-canary' USING ERRCODE = '{sqlstate}'; END $$"
    answer = await faulty.post("/faulty/session", params={"statement": raise_it})
    assert_form(answer, status, error)
    assert "canary" not in answer.text
    worth_a_retry = status == 503 or sqlstate in ("40001", "40P01", "55P03")
    assert ("retry-after" in answer.headers) == worth_a_retry


async def test_several_fields_are_refused_as_a_combination(faulty):
    key = PeeledArticleTag.__table__.primary_key
    rule = f"TABLE = '{key.table.name}', CONSTRAINT = '{key.name}'"
    raise_it = f"DO $$ BEGIN RAISE 'x' USING ERRCODE = '23505', {rule}; END $$"
    answer = await faulty.post("/faulty/session", params={"statement": raise_it})
    assert_form(answer, 409, "conflict")
    assert answer.json()["fields"] == ["peeled_article_id", "peeled_tag_id"]
    together = "the combination of peeled_article_id and peeled_tag_id is already taken"
    assert answer.json()["message"] == together


async def test_extras_never_override_the_form():
    extras = {"title": "mine", "error": "mine", "status": 200, "scope": 1, "fields": ["x"]}
    answer = failure_response({}, 409, "taken", extras=extras)
    body = json.loads(answer.body)
    assert (body["title"], body["error"], body["fields"]) == ("Conflict", "conflict", ["x"])
    assert (body["status"], body["scope"]) == (409, 1)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("/shelves/1/jars/2", True),
        ("/shelves/a/b/jars/c/d", True),
        ("/shelves/1/jars/", False),
        ("/shelves//jars/2", False),
        ("/shelves/1/lids/2", False),
        ("/shelves/1/jars/2/lid", True),
        ("/other/1/jars/2", False),
        ("/shelves" + "/jars" * 100_000, True),
    ],
)
def test_a_path_is_of_the_router_whose_form_it_has(path, is_one):
    assert has_path("/shelves/{shelf_id}/jars/{jar_id}", path) is is_one
