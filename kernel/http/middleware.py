"""The outermost layer of a request: its id, its limits, its log line, and the answer to a crash.

Pure ASGI. `@app.middleware("http")` would run the app in a task of its own, which costs over 100 µs
and loses the request's id on a crash.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.context import HEADER_NAMES, RequestContext, enter_context, leave_context
from kernel.errors import TooManyAtOnce
from kernel.http.access_log import note_error, request_fields, slow_fields
from kernel.http.answer_headers import AnswerHeaders
from kernel.http.clients import client_of
from kernel.http.paths import UNCLEAN, is_unclean, names_one_host
from kernel.http.problems import WRONG, failure_response
from kernel.http.telemetry import note_span
from kernel.http.websockets import SocketExchange
from kernel.identity.in_flight import InFlight
from kernel.identity.rate_limit import OverLimit, RateLimiter
from kernel.settings import Settings

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
logger = logging.getLogger(__name__)


class RequestMiddleware:
    """Every request gets a context, every response `X-Request-ID`, `Server-Timing`, and what it
    says of itself; `varying` are the headers in which a request may have a credential."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        varying: Sequence[str],
        limiter: RateLimiter | None,
        *,
        is_traced: bool = False,
    ) -> None:
        self.is_traced = is_traced
        self.app, self.limiter = app, limiter
        self.max_body_bytes, self.slow_seconds = settings.max_body_bytes, settings.slow_request
        self.in_flight = InFlight(settings.pool_size + settings.max_overflow)
        self.answer_headers = AnswerHeaders(varying)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext(scope.get("app"), client=client_of(scope))
        headers = dict(scope.get("headers", ()))
        scope[HEADER_NAMES] = headers.keys()
        given = headers.get(b"x-request-id")
        if given and REQUEST_ID.fullmatch(given):
            context.request_id = given.decode()
        if self.is_traced and scope["type"] != "lifespan":
            note_span(context, scope)
        token = enter_context(context)
        try:
            if scope["type"] == "http":
                await _Exchange(self, context, scope, receive, send).run(headers)
            elif scope["type"] == "websocket":
                exchange = SocketExchange(self.app, context, scope, receive, send)
                await exchange.run(self.limiter, headers)
            else:
                await self.app(scope, receive, send)
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
        self.app = middleware.app
        self.max_body_bytes = middleware.max_body_bytes
        self.answer_headers = middleware.answer_headers
        self.in_flight = context.in_flight = middleware.in_flight
        self.context = context
        self.method: str = scope["method"]
        # HEAD is GET without the body (RFC 9110 §9.3.2), whatever the route declares.
        self.scope = {**scope, "method": "GET"} if self.method == "HEAD" else scope
        self._receive = receive
        self._send = send
        self.received = self.status = 0
        self.slow_seconds, self.limiter = middleware.slow_seconds, middleware.limiter
        # Seconds in which the client had to send; when the answer began.
        self.receiving, self.begun = 0.0, 0.0

    async def run(self, headers: dict[bytes, bytes]) -> None:
        try:
            length = headers.get(b"content-length", b"")
            if not self.in_flight.count(self.context):
                await self.refuse(429, (error := TooManyAtOnce()).message, error.headers)
            elif length.isdigit() and int(length[:20]) > self.max_body_bytes:
                await self.refuse(413, "the body is too large")
            elif self.scope["http_version"] == "1.1" and not names_one_host(self.scope):
                await self.refuse(400, "Host should be there, once")
            elif is_unclean(self.scope):
                await self.refuse(400, UNCLEAN)
            elif self.limiter is None:
                await self.app(self.scope, self.receive, self.send)
            else:
                async with self.limiter.counting(self.context, self.scope, headers):
                    await self.app(self.scope, self.receive, self.send)
        except OverLimit as error:
            await self.refuse(429, error.message, error.headers)
        except ClientDisconnect as error:
            note_error(error)  # in the middle of its body: nobody is left to answer
        except Exception as error:
            note_error(error)
            logger.exception("unhandled error")
            if self.status:
                raise
            await self.refuse(500, WRONG)
        finally:
            self.in_flight.end(self.context)
            self.log()

    async def refuse(
        self, status: int, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        response = failure_response(self.scope, status, message, headers)
        await response(self.scope, self.receive, self.send)

    async def receive(self) -> Message:
        """Pass the body on while it stays within the limit, declared length or not."""
        asked = time.perf_counter()
        message = await self._receive()
        if message["type"] == "http.request" and not self.begun:
            self.receiving += time.perf_counter() - asked
        self.received += len(message.get("body", b""))
        if self.received > self.max_body_bytes:
            raise HTTPException(413, "the body is too large")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.begun = message["status"], time.perf_counter()
            self.in_flight.end(self.context)
            message["headers"] = [
                *self.answer_headers.of(self.scope, message.get("headers", ())),
                (b"x-request-id", self.context.request_id.encode()),
                (b"server-timing", self.timing().encode()),
                *self.context.quota,
            ]
        elif self.method == "HEAD":
            message = {**message, "body": b""}
        await self._send(message)

    def timing(self) -> str:
        """The Server-Timing header (W3C Server Timing §3), durations in milliseconds."""
        spent, database = time.perf_counter() - self.context.started, self.context.database_time
        queries = self.context.queries
        return f'db;dur={database * 1e3:.1f};desc="{queries} queries", app;dur={spent * 1e3:.1f}'

    def log(self) -> None:
        ended = time.perf_counter()
        if logger.isEnabledFor(logging.INFO):
            fields = request_fields(self.context, self.scope, self.method, self.status, ended)
            # Not logger.info(), which looks through the stack for its caller.
            record = logging.LogRecord(logger.name, logging.INFO, "", 0, "request", None, None)
            record.fields = fields
            logger.handle(record)
        seconds = (self.begun or ended) - self.context.started - self.receiving
        if seconds > self.slow_seconds:
            fields = slow_fields(self.context, self.scope, self.method, seconds)
            logger.warning("slow request", extra={"fields": fields})
