"""Timeouts for slow clients in uvicorn's HTTP protocol, which by itself waits without end."""

import logging
import sys
from abc import ABC, abstractmethod
from asyncio import BaseTransport, TimerHandle
from math import inf
from typing import Any, Literal

from kernel.settings import STARTUP_FAILURE

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
except ModuleNotFoundError:
    # With this exit status, uvicorn's parent process does not restart the worker again and again.
    sys.stderr.write("kernel.http.server needs httptools: install uvicorn[standard]\n")
    raise SystemExit(STARTUP_FAILURE) from None

logger = logging.getLogger(__name__)


class TimeoutProtocol(HttpToolsProtocol, ABC):
    """One connection, which is closed when its client is slow.

    A client has `grace_seconds` to begin its first request, for the head of one from its first byte
    on, and to read an answer. For a body, and while it reads, it has a second more for each
    `min_bytes_per_second`, but never more than `stall_seconds` from now: the rule and the rate of
    Apache's `RequestReadTimeout body=…,MinRate=500`, with an end. 500 bytes a second are a tenth of
    what the slowest mobile networks do, and whoever has sent 10 kB may be in a tunnel for 30 s.
    Time in which the service does not read, or has not asked for the body that was announced by
    `Expect: 100-continue`, does not count.

    With uvicorn's own TLS, a response that was written at once cannot be followed: a client that
    does not read it is disconnected only when uvicorn's keep-alive ends.
    """

    grace_seconds = 10.0
    stall_seconds = 30.0
    min_bytes_per_second = 500
    # At shutdown: how long to wait for the rest of a request, and for one of a new connection.
    ending_seconds = 4.0
    newcomer_seconds = 1.0
    # How often progress is measured.
    check_seconds = 2.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.awaited: Literal["request", "head", "body", "end"] = "request"
        self.due = inf  # until when to wait for `awaited`, by the loop's clock
        self.answered: RequestResponseCycle | None = None  # with pipelined requests behind it
        self.undelivered_bytes = 0  # that the parser has and has not delivered
        self.body_bytes = 0  # received since the last check
        self.unsent_bytes = 0  # of responses, at the last check
        self.read_due = inf
        self.check: TimerHandle | None = None
        self.is_ending = False

    @property
    def latest(self) -> RequestResponseCycle | None:
        """The newest request whose head is complete, or None (uvicorn's type leaves that out)."""
        return self.cycle

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # narrower than asyncio's
        self.due = self.loop.time() + self.grace_seconds
        self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_checking()
        if self.answered is not None:
            # uvicorn notifies the newest request only; this one would write to a closed connection.
            self.answered.disconnected = True
            self.answered.message_event.set()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._stop_checking()
        super().handle_websocket_upgrade()

    def resume_writing(self) -> None:
        self.unsent_bytes = 0
        super().resume_writing()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.awaited, self.due = "head", self.loop.time() + self.grace_seconds

    def on_body(self, body: bytes) -> None:
        self.undelivered_bytes = 0
        self.body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.undelivered_bytes = 0
        self.awaited, self.due = "request", inf
        super().on_message_complete()

    def shutdown(self) -> None:
        """Called by uvicorn when it stops. A request on its way is still served: a client that has
        just connected, or has sent a part of one, cannot know of the shutdown."""
        self.is_ending = True
        is_answered = self.latest is None or self.latest.response_complete
        is_new = self.latest is None and self.awaited == "request"
        is_coming = is_new or self.awaited in {"head", "body"}
        if not (is_coming and is_answered):
            super().shutdown()
        if is_coming and not self.transport.is_closing():
            seconds = self.newcomer_seconds if is_new else self.ending_seconds
            self.due = min(self.due, self.loop.time() + seconds)
            self._stop_checking()
            self._check()

    def _later(self, due: float, size: int, now: float) -> float:
        return min(due + size / self.min_bytes_per_second, now + self.stall_seconds)

    def _check(self) -> None:
        now = self.loop.time()
        received, self.body_bytes = self.body_bytes, 0
        if self.awaited == "body":
            self.due = self._later(self.due, received, now)
        if self._is_service_waited_for():
            self.due = max(self.due, now + self.grace_seconds)
        elif self._has_no_timer():
            self.due = now + self.timeout_keep_alive
        if self._is_read_too_slowly(now):
            logger.info("closed a connection whose client did not read its answer")
            self.transport.abort()
        elif now >= self.due:
            self.due = inf
            self._end_wait()
        self.check = self.loop.call_at(min(self.due, now + self.check_seconds), self._check)

    def _stop_checking(self) -> None:
        if self.check is not None:
            self.check.cancel()

    def _is_service_waited_for(self) -> bool:
        cycle = self.latest
        if cycle is None:
            return False
        if self.awaited == "body":
            return self.flow.read_paused or cycle.waiting_for_100_continue
        return self.awaited == "head" and not cycle.response_complete

    def _has_no_timer(self) -> bool:
        """Whether uvicorn waits for a request without its keep-alive timer: after a blank line, or
        after a response that was complete before its request."""
        if self.awaited != "request" or self.due < inf or self.timeout_keep_alive_task is not None:
            return False
        return (cycle := self.latest) is None or cycle.response_complete

    def _is_read_too_slowly(self, now: float) -> bool:
        size = self.transport.get_write_buffer_size()
        if size == 0 or self.unsent_bytes == 0:
            self.read_due = now + self.grace_seconds
        elif size < self.unsent_bytes:
            self.read_due = self._later(self.read_due, self.unsent_bytes - size, now)
        self.unsent_bytes = size
        return now >= self.read_due

    def _end_wait(self) -> None:
        if self.awaited in {"head", "body"}:
            self.refuse(408, f"the {self.awaited} of the request took too long")
        else:
            self.transport.close()

    @abstractmethod
    def refuse(self, status: int, message: str) -> None:
        """Send this error, unless a response has begun, and close the connection."""
