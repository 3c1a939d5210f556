"""The outermost middleware: gives a request its context and id, HTTP and WebSockets alike.

Pure ASGI. `@app.middleware("http")` would run the app in a task of its own, which costs over 100 µs
and loses the request's id on a crash.
"""

import asyncio
import re
import sys
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.context import HEADER_NAMES, RequestContext, enter_context, leave_context
from kernel.data.resources import Resources
from kernel.errors import CannotStart
from kernel.http.access_log import log_statements
from kernel.http.answer_headers import AnswerHeaders
from kernel.http.clients import client_of
from kernel.http.deadlines import Deadlines
from kernel.http.drain import Drain
from kernel.http.exchange import Exchange
from kernel.http.lifespans import serve_lifespan
from kernel.http.surroundings import Surroundings
from kernel.http.telemetry import note_span
from kernel.http.websockets import SocketExchange
from kernel.identity.in_flight import InFlight
from kernel.identity.rate_limit import RateLimiter

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestMiddleware:
    """Every request gets a context, every response `X-Request-ID`, `Server-Timing` and the headers
    of `AnswerHeaders`. `varying` are the request headers that may hold a credential."""

    def __init__(
        self,
        app: ASGIApp,
        resources: Resources,
        varying: Sequence[str],
        limiter: RateLimiter | None,
        *,
        is_traced: bool = False,
    ) -> None:
        settings, self._is_traced = resources.settings, is_traced
        self._is_debugging = settings.log_level == "DEBUG"
        self._around = Surroundings(
            app=app,
            resources=resources,
            drain=resources.get(Drain),
            deadlines=Deadlines(settings.request_timeout),
            in_flight=InFlight(settings.pool_size + settings.max_overflow),
            limiter=limiter,
            answer_headers=AnswerHeaders(varying),
            max_body_bytes=settings.max_body_bytes,
            slow_seconds=settings.slow_request,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            send = self._without_traceback(send)
            await serve_lifespan(self._around.app, scope["app"], scope, receive, send)
            return
        context = RequestContext(scope.get("app"), client=client_of(scope))
        headers = dict(scope.get("headers", ()))
        scope[HEADER_NAMES] = headers.keys()
        client_id = headers.get(b"x-request-id")
        if client_id and REQUEST_ID.fullmatch(client_id):
            context.request_id = client_id.decode()
        if self._is_traced:
            note_span(context, scope)
        if self._is_debugging:
            log_statements(context)
        around, token = self._around, enter_context(context)
        try:
            if scope["type"] == "http":
                await Exchange(around, context, scope, receive, send).run(headers)
            else:
                exchange = SocketExchange(around.app, context, scope, receive, send)
                await exchange.run(around.limiter, headers)
        except asyncio.CancelledError:
            if scope["type"] != "websocket" or not around.drain.is_over:
                raise  # else uvicorn has cancelled it, at the end of the shutdown
        finally:
            leave_context(token)

    def _without_traceback(self, send: Send) -> Send:
        """`send`, with the traceback of a CannotStart reduced to its message, unless at DEBUG."""

        async def send_plainly(message: Message) -> None:
            error = sys.exception()
            if isinstance(error, CannotStart) and not self._is_debugging:
                message = {**message, "message": str(error)}
            await send(message)

        return send_plainly
