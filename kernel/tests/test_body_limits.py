"""How much a body may hold: the service's limit, or a higher one of a router or an operation."""

import asyncio
from typing import Annotated
from uuid import uuid4

import pytest
from fastapi import APIRouter, Body, FastAPI, Request, UploadFile
from sqlmodel import select
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from kernel import CurrentUser, Session
from kernel.http.router import Router
from kernel.tests.peelings.models import Peeling

GLOBAL, RAISED = 1000, 300_000


async def counts(request: Request) -> int:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return size


async def counts_file(file: UploadFile) -> int:
    return len(await file.read())


async def counts_text(text: Annotated[str, Body()]) -> int:
    return len(text)


async def has_no_body() -> int:
    return 0


async def keeps_file(file: UploadFile, _: CurrentUser, session: Session) -> int:
    session.add(Peeling(title=str(len(await file.read())), owner_id=1))
    return len((await session.exec(select(Peeling))).all())


def upload(size):
    return {"files": {"file": ("a.bin", b"x" * size)}}


def raw(size):
    return {"content": b"x" * size}


def chunked(size):
    async def pieces():
        for start in range(0, size, 4096):
            yield b"x" * min(4096, size - start)

    return {"content": pieces()}


def assert_too_large(answer):
    problem = answer.json()
    assert (answer.status_code, problem["error"]) == (413, "content_too_large")
    assert answer.headers["content-type"] == "application/problem+json"


def raised(place, make=Router):
    """A router in which POST /peeled_files may have more, by what says so."""
    limit = {"max_body_size": RAISED}
    router = make(prefix="/peeled_files", **(limit if place == "router" else {}))
    router.post("", **(limit if place == "operation" else {}))(counts)
    if place != "inclusion":
        return router
    outer = APIRouter()
    outer.include_router(router, **limit)
    return outer


@pytest.mark.parametrize("body", [raw, chunked])
@pytest.mark.parametrize("place", ["operation", "router", "inclusion"])
@pytest.mark.parametrize("make", [Router, APIRouter])
async def test_a_limit_of_its_own_is_higher_than_the_services(mount, make, place, body):
    async with mount(raised(place, make), max_body_bytes=GLOBAL) as client:
        answer = await client.post("/peeled_files", **body(RAISED))
        assert (answer.status_code, answer.json()) == (200, RAISED)
        assert_too_large(await client.post("/peeled_files", **body(RAISED + 1)))


@pytest.mark.parametrize("body", [raw, chunked])
async def test_the_rest_stays_at_the_services_limit(mount, alice, body):
    router = raised("operation")
    router.post("/{file_id}")(counts)
    router.put("")(counts)
    async with mount(router, max_body_bytes=GLOBAL) as client:
        for method, path in [
            ("POST", "/peeled_files/7"),  # another operation of the router
            ("PUT", "/peeled_files"),  # another method of the path
            ("PATCH", "/peeled_files"),  # that there is not
            ("POST", "/file"),  # nothing
            ("POST", "/peelings"),
            ("GET", "/livez"),
        ]:
            options = {"headers": alice.headers} if path == "/peelings" else {}
            answer = await client.request(method, path, **options, **body(GLOBAL + 1))
            if body is raw or answer.status_code not in {404, 405, 200, 415}:
                assert_too_large(answer)


async def test_a_declared_length_over_a_raised_limit_is_believed_before_a_byte_is_read(mount):
    router = raised("router")
    router.delete("/{file_id}")(has_no_body)
    async with mount(router, max_body_bytes=GLOBAL) as client:
        for method, path in [("POST", "/peeled_files"), ("DELETE", "/peeled_files/7")]:
            headers = {"Content-Length": str(RAISED + 1)}
            assert_too_large(await client.request(method, path, content=b"1", headers=headers))


async def test_a_lower_limit_stays_lower(mount):
    router = Router(prefix="/peeled_files", max_body_size=10)
    router.post("")(counts)
    router.post("/none", max_body_size=0)(counts)
    async with mount(router, max_body_bytes=GLOBAL) as client:
        assert (await client.post("/peeled_files", content=b"x" * 10)).json() == 10
        assert_too_large(await client.post("/peeled_files", content=b"x" * 11))
        assert_too_large(await client.post("/peeled_files/none", content=b"x"))


async def test_an_upload_and_a_json_body_have_the_raised_limit(mount):
    router = Router(prefix="/peeled_files", max_body_size=RAISED)
    router.post("/upload")(counts_file)
    router.post("/json")(counts_text)
    async with mount(router, max_body_bytes=GLOBAL) as client:
        assert (
            await client.post("/peeled_files/upload", **upload(RAISED - 1000))
        ).json() == RAISED - 1000
        assert_too_large(await client.post("/peeled_files/upload", **upload(RAISED)))
        assert (await client.post("/peeled_files/json", json="x" * 9000)).json() == 9000
        assert_too_large(await client.post("/peeled_files/json", json="x" * RAISED))


async def test_an_upload_with_a_key_is_done_once(mount, alice):
    router = Router(prefix="/peeled_files", max_body_size=RAISED)
    router.post("")(keeps_file)
    async with mount(router, max_body_bytes=GLOBAL) as client:
        key = {"Idempotency-Key": str(uuid4()), **alice.headers}
        for _ in range(2):
            answer = await client.post("/peeled_files", headers=key, **upload(200_000))
            assert (answer.status_code, answer.json()) == (200, 1)
        assert answer.headers["idempotent-replayed"] == "true"


async def test_what_is_mounted_has_its_own_limit_or_its_routers(mount):
    async def counts_by_hand(request):
        return PlainTextResponse(str(await counts(request)))

    app, limited, inner = FastAPI(), FastAPI(max_body_size=RAISED), APIRouter(max_body_size=RAISED)
    for each in (app, limited, inner):
        each.post("/raw")(counts)
    app.include_router(inner, prefix="/inner")
    router = Router(max_body_size=RAISED)  # FastAPI mounts without a router's prefix
    router.routes.append(Route("/peeled_files/raw", counts_by_hand, methods=["POST"]))
    router.mount("/peeled_files/app", app)
    plain = APIRouter()
    plain.mount("/own", app)
    plain.mount("/limited", limited)
    async with mount(router, max_body_bytes=GLOBAL) as client:
        client.app.include_router(plain)
        for path in (
            "/peeled_files/raw",
            "/peeled_files/app/raw",
            "/own/inner/raw",
            "/limited/raw",
        ):
            for body in (raw, chunked):
                assert (await client.post(path, **body(RAISED))).text == str(RAISED), path
                assert (await client.post(path, **body(RAISED + 1))).status_code == 413, path
        for body in (raw, chunked):
            assert (await client.post("/own/raw", **body(GLOBAL + 1))).status_code == 413


@pytest.mark.parametrize("size", [-1, 1.5, "50 MB", True])
def test_an_invalid_body_limit_is_refused(size):
    with pytest.raises(ValueError, match="max_body_size must be"):
        Router(max_body_size=size)


async def test_a_deadline_does_not_cut_an_upload_that_makes_progress(mount):
    """Each piece takes the service a while, all of them longer than an answer may take."""

    async def works_on_each_piece(request: Request) -> int:
        size = 0
        async for chunk in request.stream():
            await asyncio.sleep(0.1)
            size += len(chunk)
        return size

    router = APIRouter(prefix="/peeled_files", max_body_size=RAISED)
    router.post("")(works_on_each_piece)
    async with mount(router, max_body_bytes=GLOBAL, request_timeout=0.4) as client:
        assert (await client.post("/peeled_files", **chunked(10 * 4096))).json() == 10 * 4096


async def test_a_deadline_cuts_an_upload_off_whose_work_stands_still(mount):
    async def stands_still(request: Request) -> int:
        async for _ in request.stream():
            await asyncio.sleep(20)
        return 0

    router = APIRouter(prefix="/peeled_files")
    router.post("")(stands_still)
    async with mount(router, request_timeout=0.4) as client:
        answer = await client.post("/peeled_files", **chunked(10 * 4096))
        assert (answer.status_code, answer.json()["reason"]) == (503, "timeout")
