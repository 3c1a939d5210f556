"""One run of a job: call its function, record the outcome, log and count it."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kernel.context import RequestContext, jobs_context
from kernel.data.independent import run_callbacks, session_of
from kernel.data.jobs import END, END_TICK, FAIL, GIVE_BACK, Job, JobFailed
from kernel.data.resources import HasState, Resources, resources_of
from kernel.data.session import WriteSession
from kernel.driver_errors import DRIVER_ERRORS, PoolTimeout
from kernel.errors import ServiceError
from kernel.jobs.tasks import TASKS, Task
from kernel.metrics import Family
from kernel.tracebacks import summarize_with_place

MOST_ATTEMPTS = 25
# A lease lasts this much longer than the task's timeout: time to record the outcome.
LEASE_SECONDS = 15.0
RUNS = Family("jobs_runs_total", "Runs that have ended.", ("task", "outcome"))
logger = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Another worker has the job, or it was discarded: this run's transaction is rolled back."""


@dataclass(eq=False)
class Run:
    """A job that this process has taken. `clock` is set by tests that run ahead of now."""

    app: HasState
    waited: timedelta
    job: Job
    clock: datetime | None = None
    taken_at: float = field(default_factory=time.monotonic)
    error: BaseException | None = None
    has_ended: bool = False

    @property
    def task(self) -> Task[Any]:
        return TASKS[self.job.task]

    @property
    def lease_seconds(self) -> float:
        """Seconds until another worker may take the job."""
        return self.task.timeout + LEASE_SECONDS - (time.monotonic() - self.taken_at)

    async def run(self) -> None:
        """Run the job, record the outcome in the table, log it and count it."""
        with jobs_context(self.app, self.job.request_id) as context:
            started, level = time.perf_counter(), logging.INFO
            try:
                outcome = await self._perform(context)
            except LeaseLost:
                outcome, level = "lost", logging.WARNING
            except BaseException as error:
                if _is_end(error):
                    raise
                self.error, level = error, logging.WARNING
                outcome = await self._fail(error)
            self.has_ended = True
            RUNS.add(1, self.job.task, outcome)
            job, ms = self.job, round((time.perf_counter() - started) * 1000, 1)
            fields = {"task": job.task, "job": job.id, "attempt": job.attempts, "outcome": outcome}
            fields |= {"duration_ms": ms, "waited_ms": round(self.waited.total_seconds() * 1000, 1)}
            logger.log(level, "job", exc_info=self.error, extra={"fields": fields})

    async def give_back(self) -> None:
        """Make the job due again for any worker; this attempt does not count."""
        await self._write(GIVE_BACK)

    async def _perform(self, context: RequestContext) -> str:
        if self.job.attempts > MOST_ATTEMPTS:
            raise JobFailed("its last run had no end: its process was killed")
        task, resources = self.task, resources_of(self.app)
        session = WriteSession(resources.writer.unit_of_work())
        context.unit = session.unit
        by_type = {Job: self.job, Resources: resources, WriteSession: session}
        injected = {name: by_type[kind] for name, kind in task.arguments.injected.items()}
        arguments = task.arguments.load(self.job.arguments)
        try:
            async with asyncio.timeout(task.timeout):
                await task.function(**injected, **arguments)
                if not task.external:
                    await self._end(session)
                    await session.finish()
        finally:
            context.unit = None
            await session.end()
        if task.external:
            await self._persist(self._end_in_new_session)
        await run_callbacks(session.unit.committed)
        return "done"

    async def _end(self, session: WriteSession) -> None:
        raw = await session.unit.begin()
        end = END if self.job.tick is None else END_TICK
        if not await raw.run(end, self.job.id, self.job.lease):
            raise LeaseLost

    async def _end_in_new_session(self) -> None:
        async with session_of(resources_of(self.app).writer) as session:
            await self._end(session)

    async def _fail(self, error: BaseException) -> str:
        is_last = isinstance(error, JobFailed) or self.job.attempts >= MOST_ATTEMPTS
        jitter = random.uniform(0.75, 1.25)  # noqa: S311  # not a secret
        seconds = 0.0 if is_last else jitter * math.exp(min(10, self.job.attempts))
        message = summarize_with_place(error)
        values = ("failed" if is_last else "waiting", self.clock, seconds, message)
        await self._persist(lambda: self._write(FAIL, *values))
        return "failed" if is_last else "retry"

    async def _write(self, sql: str, *values: Any) -> None:
        async with session_of(resources_of(self.app).writer) as session:
            await (await session.unit.begin()).run(sql, self.job.id, self.job.lease, *values)

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write the outcome; while the database is away, try again until the lease ends."""
        while True:
            try:
                return await write()
            except (*DRIVER_ERRORS, ServiceError, PoolTimeout):
                if self.lease_seconds < 1:
                    raise
            await asyncio.sleep(1)


def _is_end(error: BaseException) -> bool:
    """Whether the run has to end. What else a task raises, as by `sys.exit()`, is its failure."""
    task = asyncio.current_task()
    is_cancelled = isinstance(error, asyncio.CancelledError) and task and task.cancelling()
    return bool(is_cancelled) or isinstance(error, (GeneratorExit, KeyboardInterrupt))
