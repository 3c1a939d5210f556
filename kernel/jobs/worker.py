"""The worker: it takes jobs that are due, a few ahead of what it runs, and runs them."""

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
# Beside requests: so many jobs at once hold a connection, and so many external ones run.
TRANSACTIONAL, EXTERNAL = 4, 16
# Jobs are taken ahead for so many seconds, and no more than so many.
AHEAD_SECONDS, MOST_AHEAD = 0.2, 100
# After the end was told, who is cancelled may go on for so long.
END_SECONDS = 1.0
logger = logging.getLogger(__name__)


class Lane:
    """The jobs of one kind: so many run at once, and a few more are taken ahead."""

    def __init__(self, app: HasState, slots: int, *, is_external: bool) -> None:
        self._app, self._slots = app, slots
        self._tasks = [each for each in TASKS.values() if each.external == is_external]
        self._turns = asyncio.Semaphore(slots)
        self._seconds = AHEAD_SECONDS  # that a job takes
        self.runs: dict[asyncio.Task[None], Run] = {}

    @property
    def room(self) -> int:
        """How many jobs to take, none as long as there is enough to do."""
        ahead = int(min(MOST_AHEAD, self._slots * AHEAD_SECONDS / max(self._seconds, 0.0001)))
        room = max(self._slots, ahead) - len(self.runs)
        return room if self._tasks and (room > ahead // 2 or not self.runs) else 0

    async def fill(self, finish: Callable[["asyncio.Task[None]"], None]) -> None:
        """Take what is due, as far as there is room, and begin to run it."""
        if room := self.room:
            for run in await take(self._app, self._tasks, room):
                doing = asyncio.create_task(self._run(run))
                self.runs[doing] = run
                doing.add_done_callback(self.runs.pop)
                doing.add_done_callback(finish)

    async def _run(self, run: Run) -> None:
        async with self._turns:
            started = time.monotonic()
            if run.lease_seconds < run.task.timeout + LEASE_SECONDS / 2:
                await run.give_back()
                run.has_ended = True
                return
            await run.run()
            self._seconds += (time.monotonic() - started - self._seconds) / 10


class Worker:
    """Runs the jobs of the tasks that this code has, in the process of `app`."""

    def __init__(self, app: HasState, transactional: int) -> None:
        self._app, self._resources = app, resources_of(app)
        self._lanes = (
            Lane(app, transactional, is_external=False),
            Lane(app, EXTERNAL, is_external=True),
        )
        self._woken, self._is_stopping = asyncio.Event(), False
        self._ticks, self._reminders = Ticks(app), Reminders()
        wakers.add(self)
        self._working = asyncio.create_task(self._work())

    def wake(self) -> None:
        """Look at once, and not when a second is over."""
        self._woken.set()

    async def _work(self) -> None:
        """Take and run jobs until `close`; while the database is away, look for it ever less
        often."""
        wait = POLL_SECONDS
        with jobs_context(self._app):
            while not self._is_stopping:
                self._woken.clear()
                try:
                    if not self._resources.is_draining:
                        await self._ticks.make()
                        for lane in self._lanes:
                            await lane.fill(self._finish)
                except Exception as error:  # noqa: BLE001  # whatever it is, jobs go on after it
                    self._note(error)
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, PATIENCE_SECONDS)
                    continue
                wait = POLL_SECONDS
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), POLL_SECONDS)

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Take no more, wait so long for what runs, and let others have what still does."""
        self._is_stopping = True
        self.wake()
        await asyncio.wait([self._working], timeout=END_SECONDS)  # it may just have taken some
        running = {task: run for lane in self._lanes for task, run in lane.runs.items()}
        if running and grace_seconds:
            await asyncio.wait(running, timeout=grace_seconds)
        for each in (self._working, *running):
            each.cancel()
        await asyncio.wait([self._working, *running], timeout=END_SECONDS)
        # Who goes on all the same has it until its lease ends.
        ended = [run for each, run in running.items() if each.done() and not run.has_ended]
        try:
            async with asyncio.timeout(2 * END_SECONDS):
                for run in ended:
                    await run.give_back()
        except Exception as error:  # noqa: BLE001  # then their leases end
            self._note(error)

    def _finish(self, doing: "asyncio.Task[None]") -> None:
        if not doing.cancelled() and (error := doing.exception()):
            self._note(error)
        if any(lane.room for lane in self._lanes):
            self.wake()

    def _note(self, error: BaseException) -> None:
        """Tell of what keeps jobs waiting, when that changes, and then at most every 30 s."""
        if failures := self._reminders.count(type(error).__qualname__):
            fields = {"error": summarize(error), "failures": failures}
            logger.warning("jobs wait: the worker has failed", extra={"fields": fields})


@asynccontextmanager
async def working(app: HasState) -> AsyncIterator[None]:
    """Run jobs within the block, unless the settings say that others do."""
    settings = resources_of(app).settings
    if settings.jobs == "off":
        yield
        return
    is_apart = settings.jobs == "only"
    # Their share of the pool, but for one: a worker takes jobs, and tells of them, by that.
    most = max(1, (settings.pool_size + settings.max_overflow) // 2 - 1)
    worker = Worker(app, most if is_apart else min(TRANSACTIONAL, most))
    try:
        yield
    finally:
        await worker.close(settings.drain_seconds if is_apart else 0.0)
