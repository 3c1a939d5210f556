"""A small app for the tests of the server's protocol, and that protocol with shorter times."""

import asyncio
import json

from starlette.types import Receive, Scope, Send

from kernel.http.server import Protocol

LARGE = 16 * 1024 * 1024  # more than the kernel's buffers hold

LATE_SECONDS = 0.6


class Quick(Protocol):
    """Limits that a test can wait for."""

    grace_seconds = 0.4
    stall_seconds = 0.8
    check_seconds = 0.1
    linger_seconds = 1.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell what was asked for; `/late…` waits before it reads the body, `…/early` does not read it,
    `/begun` answers before it reads, `/large` sends much."""
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await echo(receive, send)
        return
    size, path = 0, scope["path"]
    if path.startswith("/late"):
        await asyncio.sleep(LATE_SECONDS)
    if path == "/begun":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    while not path.endswith("/early"):
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    names = sorted(name.decode() for name, _ in scope["headers"])
    body = json.dumps({"path": path, "size": size, "headers": names}).encode()
    body = bytes(LARGE) if path == "/large" else body
    length = [(b"content-length", b"%d" % len(body))]
    if path != "/begun":
        await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


async def echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
