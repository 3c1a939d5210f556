"""The end of a service, told before it comes: to balancers, to clients, and to streams.

On SIGTERM, `/readyz` is 503 and each answer closes its connection, while requests are served as
ever; after `APP_DRAIN` seconds uvicorn stops as it does by itself. Its protocols know nothing of
its server, so it is its handler of the signal that is called later. A second signal, or SIGINT, as
a terminal's Ctrl+C sends it, is passed on at once.
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
    """One service's; `resources.is_draining` tells of its beginning."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._handlers: dict[int, Handler] = {}
        self._timer: asyncio.TimerHandle | None = None
        # Who waits for the client of an answer to leave, and whether the answer has no end.
        self._waiting: dict[asyncio.Task[Any], Callable[[], bool]] = {}
        self.is_over = False  # so that what is cancelled now is cancelled by uvicorn

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Stand before uvicorn's handlers of signals, if it has any here."""
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
        try:
            yield
        finally:
            if self._timer:
                self._timer.cancel()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @property
    def server(self) -> Any:
        """uvicorn's server, if this is its process."""
        return next((getattr(each, "__self__", None) for each in self._handlers.values()), None)

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
        """Tell endless answers to end."""
        self.is_over = True
        for task in [task for task, is_endless in self._waiting.items() if is_endless()]:
            del self._waiting[task]
            task.cancel()

    async def receive(self, receive: Receive, is_endless: Callable[[], bool]) -> Message:
        """What the client of an answer says: that it has left. So it has for an endless answer when
        the drain is over."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())  # what calls applications
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
    """Whether an answer with these headers has no end of its own."""
    kinds = [value for name, value in headers if name == b"content-type"]
    return any(kind.startswith(EVENTS) for kind in kinds)


def _is_uvicorns(handler: object) -> bool:
    uvicorn = sys.modules.get("uvicorn")  # which nobody else imports
    owner = getattr(handler, "__self__", None)
    return uvicorn is not None and isinstance(owner, uvicorn.Server)
