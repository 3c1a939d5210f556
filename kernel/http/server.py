"""uvicorn's HTTP protocol, with limits: for the head of a request, and for clients that are slow.

    uvicorn service:app --http kernel.http.server:Protocol

uvicorn by itself waits without end for the rest of a head or of a body and for a client to read its
answer, and takes a head of any size; its parser copies what it has of a header for each piece more,
so that one header of 120 MB takes 11 s of CPU. What is refused here has the form of every other
error, then the connection is closed.
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

# The parser takes 0.9 and 2.0, too, which have other forms.
VERSIONS = ("1.1", "1.0")
logger = logging.getLogger(__name__)
# uvicorn imports this before the service, whose metrics are made with its modules.
share_metrics()


class Protocol(TimeoutProtocol):
    """One connection. A subclass may have other limits, and be named in `--http` instead.

    `head_max_bytes` are those of the request line and the header fields together; they hold for the
    trailer fields and for the extension of a chunk, too. A head that is sent ahead of the answer to
    the request before it may have as much more.
    """

    head_max_bytes = 64 * 1024
    head_max_fields = 100
    pipeline_max = 100  # requests that wait for the answer to the one before, of 3 kB at least
    # How long a refused client may go on to send: it would not see its answer if what it has sent
    # were left unread (RFC 9112 §9.6).
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
        """Give the parser no more at once than it may keep to itself."""
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
            raise ValueError  # which ends the parser's work
        if len(self.pipeline) > self.pipeline_max:
            self.refuse(429, f"more than {self.pipeline_max} requests are ahead of their answers")
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
        # uvicorn adds the trailer fields to its list, and they are not header fields (RFC 9110
        # §6.5.1): the request's scope keeps the list that it has.
        if self.headers is self.scope["headers"]:
            self.headers = [*self.headers]

    def on_response_complete(self) -> None:
        self.answered = self.pipeline[-1][0] if self.pipeline else None
        is_last = self.answered is None
        super().on_response_complete()
        if is_last and self.refusal is not None and not self.transport.is_closing():
            self._send_refusal({"client": self.client}, *self.refusal)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's own words
        """uvicorn's, for whatever the parser refuses."""
        self.refuse(400, "this is no valid HTTP request")

    def refuse(self, status: int, message: str) -> None:
        """Answer so, after the requests before this one have been answered, and read no more."""
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
    """The answer, and a line of what it was, since no middleware has seen this request."""
    context = RequestContext()
    given = dict(scope.get("headers", ())).get(b"x-request-id")
    if given and REQUEST_ID.fullmatch(given):
        context.request_id = given.decode()
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
