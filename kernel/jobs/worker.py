"""The worker: takes due jobs, a few more than it runs at once, and runs them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from kernel.context import jobs_context
from kernel.data.resources import HasState, resources_of
from kernel.jobs.queue import Ticks, take
from kernel.jobs.runs import LEASE_SECONDS, Run
from kernel.jobs.tasks import TASKS, wakers
from kernel.reminders import Reminders
from kernel.tracebacks import summarize

POLL_SECONDS, PATIENCE_SECONDS = 1.0, 10.0
# Jobs that run at once in a process that also serves requests; an external one holds no connection.
TRANSACTIONAL, EXTERNAL = 4, 16
# Prefetch: take as many jobs as run in this many seconds, at most this many.
AHEAD_SECONDS, MOST_AHEAD = 0.2, 100
# A prefetched job waits at most this long for its turn: no other process can run it meanwhile.
TURN_SECONDS = LEASE_SECONDS / 2
# How long cancelled jobs may take to end when the worker closes.
END_SECONDS = 1.0
logger = logging.getLogger(__name__)


class Lane:
    """The jobs of one kind, external or not: `slots` run at once, a few more are prefetched."""

    def __init__(self, app: HasState, slots: int, *, external: bool) -> None:
        self._app, self._slots, self._is_external = app, slots, external
        self._turns = asyncio.Semaphore(slots)
        self._seconds = AHEAD_SECONDS  # of one job, a moving average
        self.runs = set[asyncio.Task[None]]()

    @property
    def room(self) -> int:
        """How many jobs to take now; 0 while more than half of the prefetched ones are left."""
        ahead = int(min(MOST_AHEAD, self._slots * AHEAD_SECONDS / max(self._seconds, 0.0001)))
        room = max(self._slots, ahead) - len(self.runs)
        return room if room > ahead // 2 or not self.runs else 0

    async def fill(self, finish: Callable[["asyncio.Task[None]"], None]) -> None:
        """Take due jobs while there is room, and start them."""
        tasks = [task for task in TASKS.values() if task.external == self._is_external]
        if tasks and (room := self.room):
            for run in await take(self._app, tasks, room):
                running = asyncio.create_task(self._run(run))
                self.runs.add(running)
                running.add_done_callback(self.runs.discard)
                running.add_done_callback(finish)

    async def _run(self, run: Run) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(TURN_SECONDS) as waiting, self._turns:
                    waiting.reschedule(None)
                    started = time.monotonic()
                    await run.run()
                    self._seconds += (time.monotonic() - started - self._seconds) / 10
                    return
            self._seconds = AHEAD_SECONDS  # prefetch none until jobs are short again
            await run.give_back()
        except asyncio.CancelledError:
            await run.give_back()
            raise


class Worker:
    """Runs the jobs of all tasks in `TASKS`, in the process of `app`."""

    def __init__(self, app: HasState, transactional: int) -> None:
        self._app, self._resources = app, resources_of(app)
        self._lanes = Lane(app, transactional, external=False), Lane(app, EXTERNAL, external=True)
        self._woken, self._is_stopping = asyncio.Event(), False
        self.wake = self._woken.set  # to look for jobs now instead of at the next poll
        self._ticks, self._reminders = Ticks(app), Reminders()
        wakers.add(self)
        self._working = asyncio.create_task(self._work())

    async def _work(self) -> None:
        """Take and run jobs until `close`; while the database is away, wait twice as long after
        each failure, at most `PATIENCE_SECONDS`."""
        wait = POLL_SECONDS
        with jobs_context(self._app):
            while not self._is_stopping:
                self._woken.clear()
                try:
                    if not self._resources.is_draining:
                        await self._ticks.make()
                        for lane in self._lanes:
                            await lane.fill(self._finish)
                except Exception as error:  # noqa: BLE001  # the worker must survive any error
                    self._note(error)
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, PATIENCE_SECONDS)
                    continue
                wait = POLL_SECONDS
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), POLL_SECONDS)

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Take no more jobs, wait `grace_seconds` for running jobs, cancel the others and give them
        back."""
        self._is_stopping = True
        self.wake()
        await asyncio.wait([self._working], timeout=END_SECONDS)  # it may just have taken some
        await asyncio.wait(self._running(), timeout=grace_seconds)
        for task in (running := self._running()):  # with those that it has taken meanwhile
            task.cancel()
        # A job that has not ended then keeps its lease, and is taken again when that ends.
        await asyncio.wait(running, timeout=2 * END_SECONDS)

    def _running(self) -> list["asyncio.Task[None]"]:
        return [self._working, *(task for lane in self._lanes for task in lane.runs)]

    def _finish(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            self._note(error)
        if any(lane.room for lane in self._lanes):
            self.wake()

    def _note(self, error: BaseException) -> None:
        """Log why jobs wait: when the kind of error changes, and then at most every 30 s."""
        if failures := self._reminders.count(type(error).__qualname__):
            fields = {"error": summarize(error), "failures": failures}
            logger.warning("jobs wait: the worker has failed", extra={"fields": fields})


@asynccontextmanager
async def working(app: HasState) -> AsyncIterator[None]:
    """Run jobs within the block, unless the setting `jobs` is "off"."""
    settings = resources_of(app).settings
    if settings.jobs == "off":
        yield
        return
    is_dedicated = settings.jobs == "only"
    # Their share of the pool, but for one: a worker takes jobs, and records outcomes, by that.
    most = max(1, (settings.pool_size + settings.max_overflow) // 2 - 1)
    worker = Worker(app, most if is_dedicated else min(TRANSACTIONAL, most))
    try:
        yield
    finally:
        await worker.close(settings.drain_seconds if is_dedicated else 0.0)
