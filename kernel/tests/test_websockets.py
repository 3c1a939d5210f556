"""WebSockets: who calls, what they hold, how they are refused and how they end."""

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated

import pytest
import uvicorn
import websockets
from fastapi import Depends, HTTPException, Query, WebSocket, WebSocketException
from fastapi.security import APIKeyCookie
from sqlalchemy import func, select

from kernel.data.independent import open_session
from kernel.errors import Conflict, NotFound, ServiceError, Unavailable
from kernel.http.application import build_app
from kernel.http.dependencies import Id, Paging, Passwords, Reader, Search, Service, Session, opened
from kernel.http.problems import ErrorForm
from kernel.http.router import Router
from kernel.identity.callers import Admin, CredentialScheme, CurrentUser, Viewer, require
from kernel.identity.passwords import PasswordVault
from kernel.identity.principal import Principal
from kernel.testing.sockets import Closed, open_socket
from kernel.tests.peelings.models import Peeling, PeelingPublic
from kernel.tests.processes import checkout_in, serve
from kernel.tests.test_open import Errors, in_house_form

router = Router(prefix="/peeled_live", tags=["peeled_live"])


class Teapot(ServiceError):
    status = 418


FAILURES = {
    "conflict": Conflict("taken", holder="canary"),
    "missing": NotFound("peeling", 7),
    "teapot": Teapot("short and stout"),
    "http": HTTPException(418, {"secret": "canary"}, {"X-Of": "ours"}),
    "strange": HTTPException(499, "strange"),
    "away": Unavailable("away"),
    "policy": WebSocketException(1008, "not so"),
    "own": WebSocketException(4001, "own"),
    "crash": ZeroDivisionError("canary"),
}
# A team's service has a name and schemes of its own.
as_shipped = pytest.mark.house
# Status before the handshake; code and reason behind it.
OUTCOMES = {
    "conflict": (409, 1008, "Conflict"),
    "missing": (404, 1008, "Not Found"),
    "teapot": (418, 1008, "I'm a Teapot"),
    "http": (418, 1008, "I'm a Teapot"),
    "strange": (400, 1008, "Error"),
    "away": (503, 1011, "Service Unavailable"),
    "policy": (403, 1008, "not so"),
    "own": (403, 4001, "own"),
    "crash": (500, 1011, "Internal Server Error"),
}


@router.websocket("/me")
async def echo_me(socket: WebSocket, me: CurrentUser) -> None:
    await socket.accept()
    await socket.send_text(f"{me.id} {me.role}")
    async for text in socket.iter_text():
        await socket.send_text(text)


@router.websocket("/viewer")
async def tell_viewer(socket: WebSocket, me: Viewer) -> None:
    await socket.accept()
    await socket.send_text(f"{me and me.id}")


@router.websocket("/admin")
async def tell_admin(socket: WebSocket, me: Admin) -> None:
    await socket.accept()
    await socket.send_text(f"{me.role}")


@router.websocket("/accountant")
async def tell_accountant(
    socket: WebSocket, me: Annotated[Principal, Depends(require("accountant", "admin"))]
) -> None:
    await socket.accept()
    await socket.send_text(f"{me.role}")


@router.websocket("/all/{peeling_id}")
async def use_all(
    socket: WebSocket,
    peeling_id: Id,
    me: CurrentUser,
    reader: Reader,
    service: Service,
    passwords: Passwords,
    paging: Paging,
    vault: Annotated[PasswordVault, Depends(opened(PasswordVault))],
    number: Annotated[int, Query(le=9)],
    q: Search = None,
) -> None:
    await socket.accept()
    assert passwords is vault
    page = await paging.fetch(reader, PeelingPublic, select(Peeling), "id")
    async with open_session() as session:
        await session.insert(Peeling, PeelingPublic, title=f"{q}", owner_id=me.id)
    (row,) = await reader.fetch(select(func.count()).select_from(Peeling))
    told = [service.slug, peeling_id, number, q, paging.limit, len(page.items), row[0]]
    await socket.send_json(told)


@router.websocket("/session")
async def want_session(socket: WebSocket, session: Session) -> None:
    raise AssertionError


@router.websocket("/early/{failure}")
async def fail_early(socket: WebSocket, failure: str) -> None:
    raise FAILURES[failure]


@router.websocket("/late/{failure}")
async def fail_late(socket: WebSocket, failure: str) -> None:
    await socket.accept()
    raise FAILURES[failure]


@router.websocket("/careless")
async def receive_carelessly(socket: WebSocket) -> None:
    await socket.accept()
    while True:
        await socket.receive_text()


@router.websocket("/reading/{kind}")
async def read_one_kind(socket: WebSocket, kind: str) -> None:
    await socket.accept()
    if kind == "crash":
        json.loads(await socket.receive_text())
    read = {"text": socket.iter_text, "bytes": socket.iter_bytes, "json": socket.iter_json}[kind]
    async for message in read():
        await socket.send_text(f"{message!r}")


@router.websocket("/deaf")
async def send_to_nobody(socket: WebSocket) -> None:
    await socket.accept()
    async for _ in socket.iter_text():
        pass
    await socket.receive()


@router.websocket("/close")
async def close_it(socket: WebSocket) -> None:
    await socket.accept(headers=[(b"x-of", b"ours")])
    await socket.close(4000, "bye")


@router.websocket("/last-words")
async def close_with_last_words(socket: WebSocket) -> None:
    await socket.accept()
    for word in ("one", "two"):
        await socket.send_text(word)
    await socket.close(4000, "bye")


@router.websocket("/refuse")
async def refuse_it(socket: WebSocket) -> None:
    await socket.close(1008, "not here")


@router.websocket("/forget")
async def forget_to_accept(socket: WebSocket) -> None: ...


@pytest.fixture
async def service(mount):
    async with mount(router) as client:
        yield client


def logged(log):
    (line,) = [line for line in log.lines("INFO") if line["message"] == "websocket"]
    return line


# Who calls.


async def test_a_socket_knows_its_caller(service, alice, log):
    async with service.socket(
        "/peeled_live/me", {**alice.headers, "X-Request-ID": "one"}
    ) as socket:
        assert (socket.status, socket.headers["x-request-id"]) == (101, "one")
        assert await socket.receive() == f"{alice.user_id} member"
        await socket.send("hello")
        assert await socket.receive() == "hello"
        await socket.close(4321)
    line = logged(log)
    assert line.pop("ms") >= line.pop("db_ms") + line.pop("wait_ms") > 0
    del line["time"]
    assert line == {
        "level": "INFO",
        "logger": "kernel.http.websockets",
        "message": "websocket",
        "request_id": "one",
        "route": "/peeled_live/me",
        "status": 101,
        "code": 4321,
        "queries": 1,
        "error": None,
        "user_id": alice.user_id,
        "client": "127.0.0.1",
    }


async def test_a_key_opens_a_socket_as_well(service, alice):
    key = (await alice.post("/keys", json={"name": "x"})).json()["key"]
    # What no browser sends by itself is good from anywhere.
    headers = {"X-API-Key": key, "Origin": "https://elsewhere.example"}
    async with service.socket("/peeled_live/me", headers) as socket:
        assert await socket.receive() == f"{alice.user_id} member"


@as_shipped
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer x.y.z"}, {"X-API-Key": "none"}], ids=str
)
async def test_a_stranger_is_refused_in_the_houses_form(service, log, headers):
    async with service.socket("/peeled_live/me", headers) as socket:
        body = socket.json()
    assert (socket.status, body["status"], body["message"]) == (401, 401, "sign in to do this")
    assert socket.headers["www-authenticate"] == "Bearer, APIKey"
    assert socket.headers["content-type"] == "application/problem+json"
    assert socket.headers["x-request-id"] == body["request_id"]
    assert (logged(log)["status"], logged(log)["code"]) == (401, None)


async def test_an_optional_caller_is_known_or_not_but_never_wrong(service, alice):
    for headers, expected in (({}, "None"), (alice.headers, str(alice.user_id))):
        async with service.socket("/peeled_live/viewer", headers) as socket:
            assert await socket.receive() == expected
            with pytest.raises(Closed, match="1000"):
                await socket.receive()
    async with service.socket("/peeled_live/viewer", {"X-API-Key": "none"}) as socket:
        assert socket.status == 401


@pytest.mark.parametrize("path", ["/peeled_live/admin", "/peeled_live/accountant"])
async def test_a_role_is_checked(service, alice, admin, path):
    async with service.socket(path, alice.headers) as socket:
        assert socket.status == 403
    async with service.socket(path, admin.headers) as socket:
        assert await socket.receive() == "admin"


async def test_an_account_that_is_gone_is_nobodys(service, alice, admin):
    await admin.patch(f"/users/{alice.user_id}", json={"is_active": False})
    async with service.socket("/peeled_live/me", alice.headers) as socket:
        assert socket.status == 401


async def test_a_page_of_another_site_has_no_cookie(settings):
    async def read(resources, rows, credential):
        return Principal(7, "member")

    cookie = CredentialScheme(
        APIKeyCookie(name="session"),
        lambda connection: [text for text in [connection.cookies.get("session")] if text],
        read,
    )
    app = build_app(settings, name="x", version="1", credentials=[cookie])
    app.include_router(router)
    async with app.router.lifespan_context(app):
        for origin, status in [
            (None, 101),
            ("http://test", 101),
            ("https://test", 101),
            ("https://evil.example", 401),
            ("http://test.evil.example", 401),
            ("http://test:81", 401),
            ("null", 401),
            ("", 401),
            ("http://[::1", 401),
        ]:
            headers = {"cookie": "session=x"} | ({} if origin is None else {"origin": origin})
            async with open_socket(app, "/peeled_live/me", headers) as socket:
                assert socket.status == status, origin


# What it has.


@as_shipped
async def test_a_socket_has_parameters_and_what_the_service_has(service, alice, sql):
    async with service.socket("/peeled_live/all/7?number=3&q=x&limit=5", alice.headers) as socket:
        assert await socket.receive() == '["julienne",7,3,"x",5,0,1]'


async def test_a_parameter_that_is_not_valid_is_told_without_its_value(service, alice):
    async with service.socket("/peeled_live/all/7?number=canary&limit=0", alice.headers) as socket:
        body = socket.json()
    assert (socket.status, "canary" in str(body)) == (422, False)
    assert [each["loc"] for each in body["errors"]] == [["query", "limit"], ["query", "number"]]


async def test_a_socket_has_no_session_and_is_told_what_to_do(service, log):
    async with service.socket("/peeled_live/session") as socket:
        assert socket.status == 500
    (line,) = log.lines("ERROR")
    assert "it opens one for each change, with open_session()" in line["exception"]


async def test_an_open_socket_holds_no_connection(mount, alice):
    few = {"pool_size": 1, "max_overflow": 0, "read_pool_size": 1, "pool_timeout": 0.2}
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(mount(router, **few))
        for _ in range(3):
            socket = service.socket("/peeled_live/me", alice.headers)
            await (await stack.enter_async_context(socket)).receive()
        for method in ("GET", "POST"):
            answer = await service.request(
                method, "/peelings", headers=alice.headers, json={"title": "x"}
            )
            assert answer.status_code < 300


# How it is refused, and how it ends.


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_before_the_handshake_is_an_answer(service, log, failure):
    status, _, reason = OUTCOMES[failure]
    async with service.socket(f"/peeled_live/early/{failure}") as socket:
        assert (socket.status, "canary" in str(socket.headers)) == (status, False)
        body = socket.json()
    assert body["request_id"] == socket.headers["x-request-id"]
    assert logged(log)["status"] == status
    if status == 403:
        assert body["message"] == reason
    async with service.socket(f"/peeled_live/early/{failure}", can_answer=False) as socket:
        assert (socket.status, socket.body) == (403, b"")


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_behind_the_handshake_closes_the_socket(service, log, failure):
    _, code, reason = OUTCOMES[failure]
    async with service.socket(f"/peeled_live/late/{failure}") as socket:
        assert socket.status == 101
        with pytest.raises(Closed) as closed:
            await socket.receive()
    assert (closed.value.code, closed.value.reason) == (code, reason)
    assert (logged(log)["status"], logged(log)["code"]) == (101, code)
    causes = [line["message"] for line in log.lines("ERROR")]
    assert causes == (["unhandled error"] if failure == "crash" else [])
    assert "canary" not in str(log.lines())


async def test_a_path_of_no_socket_is_not_found(service):
    for path in ("/nowhere", "/peeled_live/me/more", "/peelings"):
        async with service.socket(path) as socket:
            assert (socket.status, socket.json()["error"]) == (404, "not_found")


async def test_a_refused_handshake_is_a_403_with_its_reason(service):
    async with service.socket("/peeled_live/refuse") as socket:
        body = socket.json()
    assert (socket.status, body["error"], body["message"]) == (403, "forbidden", "not here")


async def test_a_handshake_that_nobody_answers_is_a_mistake_of_ours(service, log):
    async with service.socket("/peeled_live/forget") as socket:
        assert (socket.status, socket.json()["error"]) == (500, "internal_server_error")
    (line,) = log.lines("ERROR")
    assert "has neither accepted nor closed it" in line["exception"]


async def test_a_close_of_ones_own_is_as_it_is(service, log):
    async with service.socket("/peeled_live/close") as socket:
        assert socket.headers["x-of"] == "ours"
        with pytest.raises(Closed, match="4000 bye"):
            await socket.receive()
    assert logged(log)["code"] == 4000


@pytest.mark.parametrize("path", ["/peeled_live/careless", "/peeled_live/deaf"])
async def test_a_client_that_leaves_is_no_error(service, log, path):
    async with service.socket(path) as socket:
        await socket.close(1001)
    assert (logged(log)["code"], log.lines("ERROR")) == (1001, [])


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("text", "a", b"a"),
        ("bytes", b"a", "a"),
        ("json", "1", b"1"),
        ("json", "1", "{"),
        ("json", "1", "[" * 100_000),
    ],
)
async def test_a_message_of_another_kind_is_the_clients_mistake(service, log, kind, good, bad):
    async with service.socket(f"/peeled_live/reading/{kind}") as socket:
        await socket.send(good)
        assert await socket.receive()
        await socket.send(bad)
        with pytest.raises(Closed, match="1008 Unprocessable Content"):
            await socket.receive()
    assert log.lines("WARNING", "ERROR") == []


async def test_what_a_handler_cannot_read_itself_is_its_own_mistake(service, log):
    async with service.socket("/peeled_live/reading/crash") as socket:
        await socket.send("{")
        with pytest.raises(Closed, match="1011"):
            await socket.receive()
    assert len(log.lines("ERROR")) == 1


async def test_another_form_of_errors_is_a_sockets_too(mount):
    ours = Router(prefix="/ours", errors=ErrorForm(Errors, in_house_form))
    ours.websocket("/early/{failure}")(fail_early)
    async with mount(ours) as service, service.socket("/ours/early/conflict") as socket:
        assert (socket.status, socket.json()) == (409, {"errors": {"body": ["taken"]}})


# Behind a real server.


@pytest.fixture
async def server(mount):
    """The service behind uvicorn, on a port of its own."""
    async with mount(router) as client:
        config = uvicorn.Config(client.app, port=0, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}/peeled_live"
        server.should_exit = True
        await task


async def test_sockets_work_the_same_in_uvicorn(server, alice, log):
    headers = {"Authorization": alice.headers["authorization"]}
    async with websockets.connect(f"{server}/me", additional_headers=headers) as socket:
        assert await socket.recv() == f"{alice.user_id} member"
        await socket.send("hello")
        assert await socket.recv() == "hello"
    for failure, (status, code, reason) in OUTCOMES.items():
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{server}/early/{failure}?q=canary")
        response = refused.value.response
        assert response.status_code == status
        assert response.headers["Content-Type"] == "application/problem+json"
        assert f'"{response.headers["X-Request-ID"]}"'.encode() in response.body
        async with websockets.connect(f"{server}/late/{failure}?q=canary") as socket:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)
    with pytest.raises(websockets.InvalidStatus, match="401"):
        await websockets.connect(f"{server}/me")
    async with websockets.connect(f"{server}/careless"):
        pass
    assert {line["message"] for line in log.lines("ERROR")} == {"unhandled error"}
    assert "canary" not in str(log.lines())


async def test_how_the_service_closes_is_told_whatever_it_has_sent_before(mount):
    async with mount(router) as client:
        for path, ending in (
            *(("last-words", (4000, "bye")), ("close", (4000, "bye"))),
            ("late/conflict", OUTCOMES["conflict"][1:]),
        ):
            async with client.socket(f"/peeled_live/{path}") as socket:
                assert await socket.closed() == ending


# In a process of its own, as users run it.

SLICE = '''\
"""A slice with a WebSocket, as a team writes it."""

from fastapi import WebSocket

from kernel import Conflict, CurrentUser, Router

router = Router(prefix="/peeled_live", tags=["peeled_live"])


@router.websocket("")
async def echo(socket: WebSocket, me: CurrentUser) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        if text == "conflict":
            raise Conflict("taken")
        if text == "crash":
            raise ZeroDivisionError
        await socket.send_text(f"{me.id} {text}")
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_a_process_serves_many_and_ends_with_them(tmp_path, database):
    with checkout_in(tmp_path / "live") as checkout:
        (checkout / "features/peeled_live").mkdir()
        (checkout / "features/peeled_live/__init__.py").touch()
        (checkout / "features/peeled_live/router.py").write_text(SLICE)
        contents = (checkout / "service.py").read_text()
        contents = contents.replace(
            "from features.users",
            "from features.peeled_live import router as live\nfrom features.users",
        )
        mounted = "    app.include_router(live.router)\n    return app\n"
        (checkout / "service.py").write_text(contents.replace("    return app\n", mounted))
        few = {"pool_size": 1, "max_overflow": 0, "read_pool_size": 1, "jwt_secret": "test" * 8}
        async with database() as url, serve(checkout, database_url=url, **few) as service:
            await service.sign_up("alice")
            await use_sockets(service)
            assert await service.stop() in (0, -signal.SIGTERM)
        lines = service.lines()
    assert [line["message"] for line in lines if line["level"] == "ERROR"] == ["unhandled error"]
    closed = [line["code"] for line in lines if line["message"] == "websocket" and line["code"]]
    assert sorted(closed) == [1000, 1008, 1011, *[1012] * 50]
    assert "canary" not in service.log.read_text()


async def use_sockets(service):
    url = f"ws://127.0.0.1:{service.port}/peeled_live?q=canary"
    headers = {"Authorization": service.client.headers["authorization"]}
    connect = partial(websockets.connect, url, additional_headers=headers)
    with pytest.raises(websockets.InvalidStatus, match="401") as refused:
        await websockets.connect(url)
    assert refused.value.response.headers["Content-Type"] == "application/problem+json"
    sockets = await asyncio.gather(*[connect() for _ in range(53)])
    for socket in sockets:
        await socket.send("hello")
        assert (await socket.recv()).endswith(" hello")
    assert (await service.client.post("/peelings", json={"title": "x"})).status_code == 201
    *_, leaving, failing, crashing = sockets
    await leaving.close()
    for socket, word, code in ((failing, "conflict", 1008), (crashing, "crash", 1011)):
        await socket.send(word)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd.code == code
