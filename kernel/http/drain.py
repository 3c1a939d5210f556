"""Graceful shutdown: load balancers, clients and streams are told before the service stops.

From SIGTERM on, `/readyz` is 503 and each response closes its connection, while requests are still
served; after `APP_DRAIN` seconds uvicorn stops as usual. Its protocols have no reference to its
server, so its handler of the signal is called later. A second signal, or SIGINT as Ctrl+C sends it,
is passed on at once. A closed terminal (SIGHUP) is SIGTERM: it would end the process at once, and
leave the embedded PostgreSQL behind.
"""

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

from starlette.types import Message, Receive

from kernel.data.resources import Resources

EVENTS = b"text/event-stream"
DISCONNECT: Message = {"type": "http.disconnect"}
Handler = Callable[[int, FrameType | None], Any]
logger = logging.getLogger(__name__)


class Drain:
    """One service's shutdown; `resources.is_draining` is true from its beginning."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._handlers: dict[int, Handler] = {}
        self._timer: asyncio.TimerHandle | None = None
        # The tasks that wait for their client to disconnect, and whether their response is endless.
        self._waiting: dict[asyncio.Task[Any], Callable[[], bool]] = {}
        self.is_over = False  # from here on it is uvicorn that cancels tasks

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Replace uvicorn's signal handlers within the block, if this process has them."""
        self._resources.is_draining = self.is_over = False
        self._loop = asyncio.get_running_loop()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        is_main = threading.current_thread() is threading.main_thread()
        self._handlers = {
            number: handler
            for number, handler in handlers.items()
            if is_main and callable(handler) and _is_uvicorns(handler)
        }
        for number in self._handlers:
            signal.signal(number, self._on_signal)
        hangup = signal.getsignal(signal.SIGHUP)
        if self._handlers and hangup == signal.SIG_DFL:  # or nohup, or somebody else, has set one
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
        try:
            yield
        finally:
            if self._timer:
                self._timer.cancel()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            if self._handlers:
                signal.signal(signal.SIGHUP, hangup)

    @property
    def server(self) -> Any:
        """uvicorn's server, if this is its process."""
        return next((getattr(one, "__self__", None) for one in self._handlers.values()), None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        seconds = self._resources.settings.drain_seconds
        is_first, self._resources.is_draining = not self._resources.is_draining, True
        if number == signal.SIGTERM and is_first and seconds:
            self._loop.call_soon_threadsafe(self._begin, number, seconds)
        else:
            self._loop.call_soon_threadsafe(self.end)
            self._handlers[number](number, frame)

    def _begin(self, number: int, seconds: float) -> None:
        logger.info("draining", extra={"fields": {"seconds": seconds}})
        self._timer = self._loop.call_later(seconds, self._pass_on, number)

    def _pass_on(self, number: int) -> None:
        self.end()
        self._handlers[number](number, None)

    def end(self) -> None:
        """End the endless responses."""
        self.is_over = True
        for task in [task for task, is_endless in self._waiting.items() if is_endless()]:
            del self._waiting[task]
            task.cancel()

    async def receive(self, receive: Receive, is_endless: Callable[[], bool]) -> Message:
        """The client's next message: that it has disconnected. An endless response gets that
        message when the drain is over, too."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())  # uvicorn runs the app in a task
        self._waiting[task] = is_endless
        try:
            return await receive()
        except asyncio.CancelledError:
            if task in self._waiting:
                raise
            task.uncancel()
            return DISCONNECT
        finally:
            self._waiting.pop(task, None)


def is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a response with these headers is endless: a stream of server-sent events."""
    kinds = [value for name, value in headers if name == b"content-type"]
    return any(kind.startswith(EVENTS) for kind in kinds)


def _is_uvicorns(handler: object) -> bool:
    uvicorn = sys.modules.get("uvicorn")  # only a process that uvicorn runs has imported it
    owner = getattr(handler, "__self__", None)
    return uvicorn is not None and isinstance(owner, uvicorn.Server)
