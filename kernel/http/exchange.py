"""A request and its response in the middleware: limits, deadline, log line, and the 500 of an
unhandled error."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping
from types import MappingProxyType
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from kernel.context import RequestContext
from kernel.http.access import refusal_of, timing
from kernel.http.access_log import log_request, note_error
from kernel.http.body_limits import TOO_LARGE, is_refusal, limit_beyond
from kernel.http.deadlines import cut_off
from kernel.http.drain import DISCONNECT, is_event_stream
from kernel.http.paths import route_of
from kernel.http.problems import WRONG, failure_response
from kernel.http.surroundings import Surroundings
from kernel.identity.rate_limit import OverLimit, RateLimiter
from kernel.metrics import STATE

logger = logging.getLogger("kernel.http.middleware")


class Exchange:
    """One request and its response."""

    def __init__(
        self,
        around: Surroundings,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.around, self.context = around, context
        context.in_flight = around.in_flight
        self.method: str = scope["method"]
        # HEAD is GET without the body (RFC 9110 §9.3.2), whatever the route declares.
        self.scope = {**scope, "method": "GET"} if self.method == "HEAD" else scope
        self._receive, self._send = receive, send
        self.received = self.status = 0
        self.max_body_bytes = around.max_body_bytes
        self.has_body = self.is_ended = self.is_refused = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.begun = 0.0  # when the response began, by `time.perf_counter`

    async def run(self, headers: dict[bytes, bytes]) -> None:
        self.deadline = self.around.deadlines.begin(self.context)
        STATE.under_way += 1
        try:
            await self.serve(headers)
            if self.is_refused:
                self.is_refused = False
                await self.refuse(413, TOO_LARGE)
            elif self.is_ended:
                await self._send({"type": "http.response.body", "body": b""})
        except OverLimit as error:
            await self.refuse(429, error.message, error.headers)
        except ClientDisconnect as error:
            note_error(error)  # in the middle of its body: there is no client to answer
        except asyncio.CancelledError as error:
            # Cancelled by its deadline, or by uvicorn at the end of the shutdown.
            if not (self.deadline.take_back() or self.around.drain.is_over):
                raise
            await self.cut_off(error)
        except Exception as error:
            note_error(error)
            logger.exception("unhandled error")
            if self.status:
                raise
            await self.refuse(500, WRONG)
        finally:
            self.end()

    def serve(self, headers: dict[bytes, bytes]) -> Awaitable[None]:
        """Call the app, or refuse the request."""
        around = self.around
        if refusal := refusal_of(self.scope, headers, self.context, around.max_body_bytes):
            return self.refuse(*refusal)
        if around.limiter is None:
            return around.app(self.scope, self.receive, self.send)
        return self.serve_within_limit(around.limiter, headers)

    async def serve_within_limit(self, limiter: RateLimiter, headers: dict[bytes, bytes]) -> None:
        async with limiter.counting(self.context, self.scope, headers):
            await self.around.app(self.scope, self.receive, self.send)

    def end(self) -> None:
        if not self.begun:
            self.around.deadlines.end(self.deadline)
            self.around.in_flight.end(self.context)
        if self.deadline.is_over:
            self.deadline.take_back()  # a handler has caught the cancellation
        STATE.under_way -= 1
        log_request(
            self.context,
            self.method,
            route_of(self.scope, self.context),
            self.status,
            self.begun - self.deadline.began if self.begun else None,
            self.around.slow_seconds,
        )

    async def cut_off(self, error: BaseException) -> None:
        """Send an error response, unless a response has begun: that one stays incomplete."""
        if not self.status:
            route, is_stopping = route_of(self.scope, self.context), self.around.drain.is_over
            answer = cut_off(self.context, error, route=route, is_stopping=is_stopping)
            note_error(answer)
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
        """Pass the body on while it is within the limit, whatever Content-Length says."""
        if self.has_body:
            is_endless = lambda: is_event_stream(self.headers)  # noqa: E731  # called later
            message = await self.around.drain.receive(self._receive, is_endless)
            self.is_ended = message is DISCONNECT
            return message
        self.deadline.pause()
        try:
            message = await self._receive()
        finally:
            self.deadline.go_on()
        self.has_body = not message.get("more_body")
        if not self.has_body:
            self.deadline.progress()
        self.received += len(message.get("body", b""))
        if self.received > self.max_body_bytes:
            limit, app = self.max_body_bytes, self.context.app
            self.max_body_bytes = limit_beyond(self.received, app, self.scope, limit)
        return message

    async def send(self, message: Message) -> None:
        if self.is_refused or (message["type"] == "http.response.start" and is_refusal(message)):
            self.is_refused = True  # `run` sends a 413 in the service's form instead
            return
        if message["type"] == "http.response.start":
            self.status, self.begun = message["status"], time.perf_counter()
            self.around.deadlines.end(self.deadline)
            self.around.in_flight.end(self.context)
            self.headers = message["headers"] = [
                *self.around.answer_headers.of(self.scope, message.get("headers", ())),
                (b"x-request-id", self.context.request_id.encode()),
                (b"server-timing", timing(self.context).encode()),
                *self.context.quota,
            ]
            if self.around.resources.is_draining:
                self.announce_close()
        elif self.method == "HEAD":
            message = {**message, "body": b""}
        elif self.is_ended:
            self.is_ended = message.get("more_body", False)
        await self._send(message)

    def announce_close(self) -> None:
        if self.scope["http_version"] != "2":
            self.headers.append((b"connection", b"close"))  # RFC 9112 §9.6
        if self.around.drain.is_over:
            self.around.drain.end()
