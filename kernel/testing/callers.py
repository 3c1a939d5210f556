"""Who calls the service in tests."""

from contextlib import AbstractAsyncContextManager

import httpx
from fastapi import FastAPI

from kernel.testing.sockets import Socket, open_socket

PASSWORD = "correct horse battery"


class Caller(httpx.AsyncClient):
    """A client of the service, signed in as the user."""

    app: FastAPI
    user_id: int
    email: str
    role: str

    def socket(
        self, url: str, headers: dict[str, str] | None = None, *, can_answer: bool = True
    ) -> AbstractAsyncContextManager[Socket]:
        """A WebSocket: `async with alice.socket("/live") as socket: await socket.receive()`."""
        own = {**self.headers, **(headers or {})}
        return open_socket(self.app, url, own, can_answer=can_answer)
