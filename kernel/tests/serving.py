"""A small app for the tests of the server's protocol, and that protocol with shorter times."""

import asyncio
import json

from starlette.types import Receive, Scope, Send

from kernel.http.server import Protocol

LARGE = 16 * 1024 * 1024  # more than the kernel's buffers hold

LATE_SECONDS = 0.6
WATCHED: list[Receive] = []


class Quick(Protocol):
    """Limits that a test can wait for."""

    grace_seconds = 0.4
    stall_seconds = 0.8
    check_seconds = 0.1
    linger_seconds = 1.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell what was asked for; `/late…` waits before it reads the body, `…/early` does not read it,
    `/begun` answers before it reads, `/large` sends much, `/watch` waits for its client to leave.
    """
    if scope["type"] == "websocket":
        await echo(receive, send)
    elif scope["type"] == "http":
        path = scope["path"]
        if path.startswith("/late"):
            await asyncio.sleep(LATE_SECONDS)
        if path == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        size = 0 if path.endswith("/early") else await size_of_body(receive)
        if path == "/watch":
            await watch(receive)
        elif size is not None:
            await answer(scope, size, send)


async def size_of_body(receive: Receive) -> int | None:
    """Its bytes, or None when the client leaves in the middle."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        size += len(message["body"])
        more = message["more_body"]
    return size


async def watch(receive: Receive) -> None:
    WATCHED.append(receive)
    while (await receive())["type"] != "http.disconnect":
        pass
    WATCHED.remove(receive)


async def answer(scope: Scope, size: int, send: Send) -> None:
    names = sorted(name.decode() for name, _ in scope["headers"])
    told = {"path": scope["path"], "size": size, "headers": names, "watched": len(WATCHED)}
    body = bytes(LARGE) if scope["path"] == "/large" else json.dumps(told).encode()
    if scope["path"] != "/begun":
        length = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


async def echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
