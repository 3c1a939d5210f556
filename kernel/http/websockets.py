"""A WebSocket in the middleware: its id, its log line, and its failures.

A handshake is refused with an error response in the usual form, if the server can send one (uvicorn
can), or else by closing, which the client sees as an empty 403. After the handshake, a failure
closes the socket: with 1008 if it is the client's, with 1011 if not (RFC 6455 §7.4.1).
"""

import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from traceback import walk_tb

from fastapi import WebSocket, WebSocketDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnected

from kernel.context import RequestContext
from kernel.errors import title_of
from kernel.http.access_log import note_error
from kernel.http.paths import UNCLEAN, is_unclean, route_of
from kernel.http.problems import WRONG, failure_response
from kernel.identity.rate_limit import OverLimit, RateLimiter
from kernel.metrics import count_answer

ACCEPTED, NORMAL, POLICY, CRASHED = 101, 1000, 1008, 1011
NO_HANDSHAKE = "a handler of a WebSocket has neither accepted nor closed it: call accept()"
CAN_ANSWER = "websocket.http.response"
STATUSES = {status.value for status in HTTPStatus}
UNREADABLE = "a message of another kind was expected"
# In these, Starlette assumes that a message is of the kind that the handler expects.
READING = {
    method.__code__
    for method in (WebSocket.receive_text, WebSocket.receive_bytes, WebSocket.receive_json)
}
logger = logging.getLogger(__name__)


class SocketExchange:
    """One WebSocket; `status` is the handshake's, `code` the one that closed the socket."""

    def __init__(
        self, app: ASGIApp, context: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.app, self.context, self.scope = app, context, scope
        self._receive, self._send = receive, send
        self.status = 0
        self.code: int | None = None
        self.has_left = False

    async def run(self, limiter: RateLimiter | None, headers: Mapping[bytes, bytes]) -> None:
        try:
            if is_unclean(self.scope):
                await self.answer(400, UNCLEAN)
                return
            if limiter is None:
                await self.app(self.scope, self.receive, self.send)
            else:
                async with limiter.counting(self.context, self.scope, headers):
                    await self.app(self.scope, self.receive, self.send)
            await self.end()
        except OverLimit as error:
            await self.answer(429, error.message, error.headers)
        except WebSocketDisconnect:
            pass  # the client has left, and the handler did not handle it
        except Exception as error:
            if _is_unreadable(error):
                await self.answer(422, UNREADABLE)
            elif not (self.has_left and isinstance(error, WebSocketDisconnected)):
                note_error(error)
                logger.exception("unhandled error")
                await self.answer(500, WRONG)
        finally:
            self.log()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.has_left = True
            self.code = self.code or message.get("code")
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.status = ACCEPTED
            message = self.with_id(message)
        elif kind == "websocket.http.response.start":
            await self.refuse(message)
            return
        elif kind == "websocket.http.response.body" and self.code is not None:
            return  # the body of an error that has closed the socket
        elif kind == "websocket.close" and not self.status and self.can_answer:
            has_route = "route" in self.scope
            await self.answer(403 if has_route else 404, message.get("reason", ""))
            return
        elif kind == "websocket.close":
            self.code, self.status = message.get("code", NORMAL), self.status or 403
        await self._send(message)

    @property
    def can_answer(self) -> bool:
        return CAN_ANSWER in (self.scope.get("extensions") or {})

    async def refuse(self, start: Message) -> None:
        """Send the start of an error response, or close the socket if the handshake is over or the
        server cannot send one."""
        status: int = start["status"]
        if self.status or not self.can_answer:
            code = POLICY if status < 500 else CRASHED
            await self.send({"type": "websocket.close", "code": code, "reason": title_of(status)})
            return
        # Servers send no others here (RFC 9110 §15: an unknown status means the x00 of its class).
        self.status = status if status in STATUSES else status // 100 * 100
        await self._send(self.with_id({**start, "status": self.status}))

    async def answer(
        self, status: int, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send an error, if the client has not left and the socket is not closed."""
        if not self.has_left and self.code is None:
            response = failure_response(self.scope, status, message or title_of(status), headers)
            await response(self.scope, self.receive, self.send)

    async def end(self) -> None:
        """Close a socket that the handler has left open.

        Raises:
            RuntimeError: the handler has not even accepted it.
        """
        if not self.status and not self.has_left:
            raise RuntimeError(NO_HANDSHAKE)
        if self.status == ACCEPTED and self.code is None and not self.has_left:
            await self.send({"type": "websocket.close", "code": NORMAL})

    def with_id(self, message: Message) -> Message:
        header = (b"x-request-id", self.context.request_id.encode())
        return {**message, "headers": [*message.get("headers", ()), header]}

    def log(self) -> None:
        route = route_of(self.scope, self.context)
        count_answer("GET", route, self.status)  # RFC 6455 §4.1: a handshake is a GET
        fields = {
            "route": route,
            "status": self.status,
            "code": self.code,
            "ms": round((time.perf_counter() - self.context.started) * 1e3, 1),
            "db_ms": round(self.context.database_time * 1e3, 1),
            "wait_ms": round(self.context.waiting_time * 1e3, 1),
            "queries": self.context.queries,
            "error": self.context.error,
            "user_id": self.context.user_id,
            "client": self.context.client,
        }
        logger.info("websocket", extra={"fields": fields})


def _is_unreadable(error: Exception) -> bool:
    """Whether the client has sent bytes instead of text, text instead of bytes, or invalid JSON."""
    is_of_content = isinstance(error, KeyError | ValueError | RecursionError)
    return is_of_content and any(
        frame.f_code in READING for frame, _ in walk_tb(error.__traceback__)
    )
