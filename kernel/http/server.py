"""uvicorn's HTTP protocol, with limits: for the head of a request, and for clients that are slow.

    uvicorn service:app --http kernel.http.server:Protocol

uvicorn by itself waits without end for the rest of a head or of a body and for a client to read its
answer, and takes a head of any size; its parser copies what it has of a header with each further
piece, so that one header of 120 MB takes 11 s of CPU. A refusal has the form of every other error;
then the connection is closed.
"""

import logging
from collections.abc import Mapping
from math import inf
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kernel.context import RequestContext, enter_context, leave_context
from kernel.errors import title_of
from kernel.http.middleware import REQUEST_ID
from kernel.http.problems import failure_response
from kernel.http.timeouts import TimeoutProtocol
from kernel.metric_files import share_metrics
from kernel.metrics import REFUSED, count_answer

# The parser also accepts 0.9 and 2.0, whose messages look different.
VERSIONS = ("1.1", "1.0")
logger = logging.getLogger(__name__)
# Here, because uvicorn imports this module before the service, whose modules make metrics.
share_metrics()


class Protocol(TimeoutProtocol):
    """One connection. For other limits, name a subclass in `--http`.

    `head_max_bytes` limits the request line and the header fields together, and as well the trailer
    fields and the extensions of a chunk. A head that is pipelined, before the response to the
    request ahead of it, may have as many bytes more.
    """

    head_max_bytes = 64 * 1024
    head_max_fields = 100
    pipeline_max = 100  # pipelined requests, of 3 kB each at least
    # How long a refused client's data is still read: closing with unread data would reset the
    # connection, and the client would lose the response (RFC 9112 §9.6).
    linger_seconds = 2.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # uvicorn would refuse in plain text.
        self.concurrency_max, self.limit_concurrency = self.limit_concurrency, None
        self.url = b""  # uvicorn has none before the first request
        self.refusal: tuple[int, str] | None = None

    def data_received(self, data: bytes) -> None:
        if self.refusal is not None:
            return
        self.undelivered_bytes += len(data)
        if self.undelivered_bytes <= self.head_max_bytes:
            super().data_received(data)
        else:
            self.undelivered_bytes -= len(data)
            self._feed_in_pieces(data)

    def _feed_in_pieces(self, data: bytes) -> None:
        """Give the parser at most `head_max_bytes` that it has not delivered."""
        while data and self.refusal is None and self.transport.get_protocol() is self:
            room = self.head_max_bytes - self.undelivered_bytes
            piece, data = data[:room], data[room:]
            self.undelivered_bytes += len(piece)
            super().data_received(piece)
            if self.undelivered_bytes >= self.head_max_bytes:
                self._refuse_head()

    def _refuse_head(self) -> None:
        if len(self.url) > self.head_max_bytes // 2:
            self.refuse(414, "the target of the request is too long")
        else:
            self.refuse(431, f"the head of the request has more than {self.head_max_bytes} bytes")

    def on_headers_complete(self) -> None:
        if len(self.headers) > self.head_max_fields:
            self.refuse(431, f"the request has more than {self.head_max_fields} header fields")
            raise ValueError  # ends the parsing
        if len(self.pipeline) > self.pipeline_max:
            self.refuse(429, f"more than {self.pipeline_max} pipelined requests wait at once")
            raise ValueError
        if self.parser.get_http_version() not in VERSIONS:
            raise ValueError
        if self.concurrency_max is not None:
            self.app = _shed if self._is_full(self.concurrency_max) else self.config.loaded_app
        before = self.latest
        super().on_headers_complete()
        if self.is_ending and self.latest is not None:
            self.latest.keep_alive = False
        self.awaited = "body"
        if self.pipeline and self.answered is None:
            self.answered = before

    def _is_full(self, most: int) -> bool:
        return max(len(self.connections), len(self.tasks)) >= most

    def on_chunk_header(self) -> None:
        # uvicorn appends trailer fields to its list of headers. They must not become header fields
        # (RFC 9110 §6.5.1), so the request's scope keeps the list without them.
        if self.headers is self.scope["headers"]:
            self.headers = [*self.headers]

    def on_response_complete(self) -> None:
        self.answered = self.pipeline[-1][0] if self.pipeline else None
        is_last = self.answered is None
        super().on_response_complete()
        if is_last and self.refusal is not None and not self.transport.is_closing():
            self._send_refusal({"client": self.client}, *self.refusal)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's text
        """Called by uvicorn when the parser refuses a request."""
        self.refuse(400, "this is not a valid HTTP request")

    def refuse(self, status: int, message: str) -> None:
        """Send this error after the responses to earlier requests, and read no more."""
        if self.refusal is not None:
            return
        cycle, has_begun = self.latest, self.awaited == "body"
        self.refusal, self.awaited, self.due = (status, message), "end", inf
        if cycle is None or cycle.response_complete:
            if has_begun:
                self.transport.close()
            else:
                self._send_refusal({"client": self.client}, status, message)
        elif has_begun and self.pipeline:
            self.pipeline.popleft()
        elif has_begun:
            was_started, cycle.disconnected = cycle.response_started, True
            cycle.message_event.set()
            if was_started:
                self.transport.close()
            else:
                self._send_refusal(self.scope, status, message)

    def _send_refusal(self, scope: Mapping[str, Any], status: int, message: str) -> None:
        response = _failure(scope, status, message)
        headers = [*self.server_state.default_headers, *response.raw_headers]
        lines = [b"HTTP/1.1 %d %s" % (status, title_of(status).encode())]
        lines += [b"%s: %s" % header for header in headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.due = self.loop.time() + self.linger_seconds
        else:
            self.transport.close()


def _failure(scope: Mapping[str, Any], status: int, message: str, **headers: str) -> Response:
    """The error response; it is logged and counted here, since no middleware sees the request."""
    context = RequestContext()
    client_id = dict(scope.get("headers", ())).get(b"x-request-id")
    if client_id and REQUEST_ID.fullmatch(client_id):
        context.request_id = client_id.decode()
    headers |= {"X-Request-ID": context.request_id, "Connection": "close"}
    client = scope.get("client")
    token = enter_context(context)
    count_answer(scope.get("method", ""), None, status)
    try:
        logger.info(message, extra={"fields": {"status": status, "client": client and client[0]}})
        return failure_response(scope, status, message, headers)
    finally:
        leave_context(token)


async def _shed(scope: Scope, receive: Receive, send: Send) -> None:
    REFUSED.add(1, "shed")
    headers = {"Retry-After": "1"}
    await _failure(scope, 503, "too many requests at once", **headers)(scope, receive, send)
