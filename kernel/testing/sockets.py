"""WebSockets in tests: a client's end, which calls the app without a server or a network."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI
from starlette.types import Message, Scope

PATIENCE_SECONDS = 10.0


class Closed(Exception):
    """The service has closed the socket, with a code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class Socket:
    """The client's end. `status`, `headers` and `body` are those of the handshake: 101, or the
    response that refused it."""

    def __init__(self) -> None:
        self.to_service: asyncio.Queue[Message] = asyncio.Queue()
        self.from_service: asyncio.Queue[Message] = asyncio.Queue()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    def json(self) -> Any:
        """The JSON body of the response that refused the handshake."""
        return json.loads(self.body)

    async def send(self, data: str | bytes) -> None:
        kind = "text" if isinstance(data, str) else "bytes"
        await self.to_service.put({"type": "websocket.receive", kind: data})

    async def receive(self) -> str | bytes:
        """The next message.

        Raises:
            Closed: the service has closed the socket.
            TimeoutError: there is none within PATIENCE_SECONDS.
        """
        message = await self.next()
        if message["type"] == "websocket.close":
            raise Closed(message.get("code", 1000), message.get("reason") or "")
        data: str | bytes | None = message.get("text")
        return message["bytes"] if data is None else data

    async def closed(self) -> tuple[int, str]:
        """Skip messages until the service closes the socket; the code and reason of that."""
        while (message := await self.next())["type"] != "websocket.close":
            pass
        return message.get("code", 1000), message.get("reason") or ""

    async def close(self, code: int = 1000) -> None:
        await self.to_service.put({"type": "websocket.disconnect", "code": code})

    async def next(self) -> Message:
        return await asyncio.wait_for(self.from_service.get(), PATIENCE_SECONDS)

    async def shake_hands(self) -> None:
        await self.to_service.put({"type": "websocket.connect"})
        start = await self.next()
        statuses = {"websocket.accept": 101, "websocket.close": 403}
        self.status = statuses.get(start["type"]) or start["status"]
        headers = start.get("headers", ())
        self.headers = {name.decode(): value.decode("latin-1") for name, value in headers}
        while start["type"] == "websocket.http.response.start":
            part = await self.next()
            self.body += part.get("body", b"")
            if not part.get("more_body"):
                break


@asynccontextmanager
async def open_socket(
    app: FastAPI, url: str, headers: Mapping[str, str], *, can_answer: bool = True
) -> AsyncIterator[Socket]:
    """Open a socket to the app. `can_answer` is whether the server has the ASGI extension
    `websocket.http.response`, as uvicorn has: without it, a refused handshake is a bare 403."""
    socket = Socket()
    scope = _scope(url, {"host": "test", **headers}, can_answer=can_answer)
    task = asyncio.create_task(app(scope, socket.to_service.get, socket.from_service.put))
    try:
        await socket.shake_hands()
        yield socket
    finally:
        await socket.close(1001)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _scope(url: str, headers: Mapping[str, str], *, can_answer: bool) -> Scope:
    path, _, query = url.partition("?")
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}} if can_answer else {},
    }
