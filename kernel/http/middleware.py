"""The outermost layer of a request: its id, its limits, its log line, and the answer to a crash.

Pure ASGI. `@app.middleware("http")` would run the app in a task of its own, which costs over 100 µs
and loses the request's id on a crash.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.context import HEADER_NAMES, RequestContext, enter_context, leave_context
from kernel.data.resources import Resources
from kernel.http.access import count, log_request, refusal_of, timing
from kernel.http.answer_headers import AnswerHeaders
from kernel.http.clients import client_of
from kernel.http.deadlines import Deadlines, cut_off
from kernel.http.drain import DISCONNECT, Drain, is_event_stream
from kernel.http.paths import route_of
from kernel.http.problems import WRONG, failure_response
from kernel.http.websockets import SocketExchange
from kernel.identity.in_flight import InFlight
from kernel.metrics import STATE

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
logger = logging.getLogger(__name__)


class RequestMiddleware:
    """Every request gets a context, every response `X-Request-ID`, `Server-Timing`, and what it
    says of itself; `varying` are the headers in which a request may have a credential."""

    def __init__(
        self, app: ASGIApp, resources: Resources, drain: Drain, varying: Sequence[str] = ()
    ) -> None:
        self.app, self.resources, self.drain = app, resources, drain
        settings = resources.settings
        self.max_body_bytes = settings.max_body_bytes
        self.in_flight = InFlight(settings.pool_size + settings.max_overflow)
        self.deadlines = Deadlines(settings.request_timeout)
        self.answer_headers = AnswerHeaders(varying)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext(scope.get("app"), client=client_of(scope))
        headers = dict(scope.get("headers", ()))
        scope[HEADER_NAMES] = headers.keys()
        given = headers.get(b"x-request-id")
        if given and REQUEST_ID.fullmatch(given):
            context.request_id = given.decode()
        token = enter_context(context)
        try:
            if scope["type"] == "http":
                await _Exchange(self, context, scope, receive, send).run(headers)
            elif scope["type"] == "websocket":
                await SocketExchange(self.app, context, scope, receive, send).run()
            else:
                await self.app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "websocket" or not self.drain.is_over:
                raise  # by uvicorn, when it waits no longer
        finally:
            leave_context(token)


class _Exchange:
    """One request and its response on their way through the middleware."""

    def __init__(
        self,
        middleware: RequestMiddleware,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.app, self.resources = middleware.app, middleware.resources
        self.drain, self.deadlines = middleware.drain, middleware.deadlines
        self.max_body_bytes = middleware.max_body_bytes
        self.answer_headers = middleware.answer_headers
        self.in_flight = context.in_flight = middleware.in_flight
        self.context = context
        self.method: str = scope["method"]
        # HEAD is GET without the body (RFC 9110 §9.3.2), whatever the route declares.
        self.scope = {**scope, "method": "GET"} if self.method == "HEAD" else scope
        self._receive = receive
        self._send = send
        self.received = 0
        self.has_body = self.is_ended = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.status = 0

    async def run(self, headers: dict[bytes, bytes]) -> None:
        self.deadline = self.deadlines.begin(self.context)
        STATE.under_way += 1
        try:
            if refusal := refusal_of(self.scope, headers, self.context, self.max_body_bytes):
                await self.refuse(*refusal)
            else:
                await self.app(self.scope, self.receive, self.send)
            if self.is_ended:
                await self._send({"type": "http.response.body", "body": b""})
        except ClientDisconnect:
            pass  # in the middle of its body: nobody is left to answer
        except asyncio.CancelledError as error:
            # By its deadline, or by uvicorn, which waits no longer for what is under way.
            if not (self.deadline.take_back() or self.drain.is_over):
                raise
            await self.cut_off(error)
        except Exception:
            logger.exception("unhandled error")
            if self.status:
                raise
            await self.refuse(500, WRONG)
        finally:
            self.deadlines.end(self.deadline)
            self.deadline.take_back()  # from who has caught it
            self.in_flight.end(self.context)
            STATE.under_way -= 1
            route = route_of(self.scope, self.context)
            count(self.context, self.method, route, self.status)
            log_request(self.context, self.method, route, self.status)

    async def cut_off(self, error: BaseException) -> None:
        """Answer instead, unless the answer has begun: then it stays incomplete."""
        if not self.status:
            route = route_of(self.scope, self.context)
            answer = cut_off(self.context, error, route=route, is_stopping=self.drain.is_over)
            await self.refuse(answer.status, answer.message, answer.headers, answer.extras)

    async def refuse(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        extras: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        response = failure_response(self.scope, status, message, headers, extras)
        await response(self.scope, self.receive, self.send)

    async def receive(self) -> Message:
        """Pass the body on while it stays within the limit, declared length or not."""
        if self.has_body:
            message = await self.drain.receive(self._receive, lambda: is_event_stream(self.headers))
            self.is_ended = message is DISCONNECT
            return message
        self.deadline.pause()
        try:
            message = await self._receive()
        finally:
            self.deadline.go_on()
        self.has_body = not message.get("more_body")
        self.received += len(message.get("body", b""))
        if self.received > self.max_body_bytes:
            raise HTTPException(413, "the body is too large")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.deadlines.end(self.deadline)
            self.in_flight.end(self.context)
            self.headers = message["headers"] = [
                *self.answer_headers.of(self.scope, message.get("headers", ())),
                (b"x-request-id", self.context.request_id.encode()),
                (b"server-timing", timing(self.context).encode()),
            ]
            if self.resources.is_draining:
                self.say_goodbye()
        elif self.method == "HEAD":
            message = {**message, "body": b""}
        elif self.is_ended:
            self.is_ended = message.get("more_body", False)
        await self._send(message)

    def say_goodbye(self) -> None:
        if self.scope["http_version"] != "2":
            self.headers.append((b"connection", b"close"))  # RFC 9112 §9.6
        if self.drain.is_over:
            self.drain.end()
