"""Deadlines: until when the response to a request has to begin."""

import asyncio
import logging
import time
from typing import Any, cast

from kernel.context import RequestContext, current_context
from kernel.data.sqlstate import SLOW, UNAVAILABLE
from kernel.driver_errors import statement_of
from kernel.errors import OutcomeUnknown, ServiceError, Unavailable
from kernel.reminders import Reminders

# How often deadlines are checked: a timer for each request would cost ten times more.
CHECK_SECONDS = 0.1
LATE, STOPPING = "the request took too long", "the service is stopping"
logger = logging.getLogger(__name__)
_reminders = Reminders()


class Deadline:
    """One request's, by `time.perf_counter`; when it has passed, the request's task is cancelled.

    Time spent waiting for the client's body does not count, and each piece of a body that is not
    the last one starts the seconds anew: an upload may take as long as it makes progress.
    """

    __slots__ = (
        *("_cancelling", "_paused_at", "_progressed", "_task"),
        *("began", "is_over", "seconds"),
    )

    def __init__(self, started: float, seconds: float) -> None:
        self._task = cast(
            "asyncio.Task[Any]", asyncio.current_task()
        )  # uvicorn runs the app in a task
        self._cancelling = self._task.cancelling()
        self.began, self.seconds = started, seconds
        self._paused_at: float | None = None
        self._progressed = started
        self.is_over = False

    def pause(self) -> None:
        self._paused_at = time.perf_counter()

    def go_on(self) -> None:
        if self._paused_at is not None:
            self.began += time.perf_counter() - self._paused_at
            self._paused_at = None

    def progress(self) -> None:
        self._progressed = time.perf_counter()

    def check(self, now: float) -> bool:
        """Cancel the request's task if the deadline has passed; return whether it has."""
        counts_from = max(self.began, self._progressed)
        if now - counts_from < self.seconds or self._paused_at is not None:
            return False
        self.is_over = True
        self._task.cancel()
        return True

    def take_back(self) -> bool:
        """Undo the cancellation; return whether the task was cancelled by this deadline alone."""
        if not self.is_over:
            return False
        self.is_over = False
        return self._task.uncancel() <= self._cancelling


class Deadlines:
    """The deadlines of all requests whose response has not begun."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open: set[Deadline] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, context: RequestContext) -> Deadline:
        deadline = context.deadline = Deadline(context.started, self._seconds)
        self._open.add(deadline)
        if self._loop is not (loop := asyncio.get_running_loop()):
            self._loop = loop
            loop.call_later(CHECK_SECONDS, self._check, loop)
        return deadline

    def end(self, deadline: Deadline) -> None:
        """Stop checking: the response has begun."""
        self._open.discard(deadline)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.perf_counter()
        for deadline in [*self._open]:
            if deadline.check(now):
                self._open.discard(deadline)
        if self._open:
            loop.call_later(CHECK_SECONDS, self._check, loop)
        elif self._loop is loop:
            self._loop = None


def set_timeout(seconds: float) -> None:
    """Give the current request this many seconds, instead of the service's default."""
    if (context := current_context()) and context.deadline:
        context.deadline.seconds = seconds


def cut_off(
    context: RequestContext, error: BaseException, *, route: str | None, is_stopping: bool
) -> ServiceError:
    """The error response to a request that was cancelled; the first and then some are logged, with
    the traceback of where the request was."""
    message, reason = (STOPPING, "stopping") if is_stopping else (LATE, "timeout")
    if failures := _reminders.count((message, route)):
        seconds = round(time.perf_counter() - context.started, 1)
        fields = {"route": route, "seconds": seconds, "failures": failures}
        logger.warning(message, extra={"fields": fields}, exc_info=error)
    if statement_of(error) and not is_stopping:
        message, reason = UNAVAILABLE[SLOW], SLOW
    if context.may_be_done:
        return OutcomeUnknown(reason=reason)
    return Unavailable(message, reason=reason)
