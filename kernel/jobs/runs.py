"""One run of a job: call its function, record the outcome, log and count it."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Coroutine
from contextlib import suppress
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
# A lease lasts this much longer than the task's timeout: time to record the outcome. A task that
# was cancelled may take less time than that to end.
LEASE_SECONDS, CLEANUP_SECONDS = 15.0, 5.0
STILL_RUNS = "it suppressed its cancellation at the timeout, and may still run"
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
    release: str = GIVE_BACK  # what an interruption makes of the job

    @property
    def task(self) -> Task[Any]:
        return TASKS[self.job.task]

    async def run(self) -> None:
        """Run the job, record the outcome in the table, log it and count it."""
        with jobs_context(self.app, self.job.request_id) as context:
            started, level = time.perf_counter(), logging.INFO
            try:
                outcome = await self._perform(context)
            except LeaseLost:
                outcome, level = "lost", logging.WARNING
            except BaseException as error:
                if (task := asyncio.current_task()) and task.cancelling():
                    raise asyncio.CancelledError from error  # whatever a task makes of it
                if isinstance(error, (GeneratorExit, KeyboardInterrupt)):
                    raise
                self.error, level = error, logging.WARNING
                outcome = await self._fail(error)
            RUNS.add(1, self.job.task, outcome)
            job, ms = self.job, round((time.perf_counter() - started) * 1000, 1)
            fields = {"task": job.task, "job": job.id, "attempt": job.attempts, "outcome": outcome}
            fields |= {"duration_ms": ms, "waited_ms": round(self.waited.total_seconds() * 1000, 1)}
            logger.log(level, "job", exc_info=self.error, extra={"fields": fields})

    async def give_back(self) -> None:
        """Make the job due again for any worker; this attempt does not count. But a job whose task
        has returned is ended."""
        await self._persist(self.release)

    async def _perform(self, context: RequestContext) -> str:
        if self.job.attempts > MOST_ATTEMPTS:
            raise JobFailed("its last run had no end: its process was killed")
        task, resources = self.task, resources_of(self.app)
        session = WriteSession(resources.writer.unit_of_work())
        context.unit = session.unit
        by_type = {Job: self.job, Resources: resources, WriteSession: session}
        injected = {name: by_type[kind] for name, kind in task.arguments.injected.items()}
        arguments = injected | task.arguments.load(self.job.arguments)
        try:
            await run_bounded(self._call(session, arguments), task.timeout)
        finally:
            context.unit = None
            await session.end()
        self.release = END_TICK if self.job.tick else END
        if task.external and not await self._persist(self.release):
            raise LeaseLost
        await run_callbacks(session.unit.committed)
        return "done"

    async def _call(self, session: WriteSession, arguments: dict[str, Any]) -> BaseException | None:
        """Returns the error: as a task of asyncio's, it would let `sys.exit()` end the loop."""
        try:
            await self.task.function(**arguments)
            if not self.task.external:
                if not await self._write(session, END_TICK if self.job.tick else END):
                    raise LeaseLost
                await session.finish()
        except BaseException as error:  # noqa: BLE001  # raised by `run_bounded`
            return error
        return None

    async def _fail(self, error: BaseException) -> str:
        failed = JobFailed.of(error)
        is_last = failed is not None or self.job.attempts >= MOST_ATTEMPTS
        jitter = random.uniform(0.75, 1.25)  # noqa: S311  # not a secret
        seconds = 0.0 if is_last else jitter * math.exp(min(10, self.job.attempts))
        state, message = "failed" if is_last else "waiting", summarize_with_place(failed or error)
        is_ours = await self._persist(FAIL, state, self.clock, seconds, message)
        return ("failed" if is_last else "retry") if is_ours else "lost"

    async def _write(self, session: WriteSession, sql: str, *values: Any) -> bool:
        """Whether the job was still this run's."""
        raw = await session.unit.begin()
        return bool(await raw.run(sql, self.job.id, self.job.lease, *values))

    async def _persist(self, sql: str, *values: Any) -> bool:
        """Write the outcome; while the database is away, try again until the lease ends."""
        while time.monotonic() < self.taken_at + self.task.timeout + LEASE_SECONDS:
            with suppress(*DRIVER_ERRORS, ServiceError, PoolTimeout):  # the pool logs them
                async with session_of(resources_of(self.app).writer) as session:
                    return await self._write(session, sql, *values)
            await asyncio.sleep(1)
        return False


async def run_bounded(work: Coroutine[Any, Any, BaseException | None], seconds: float) -> None:
    """Await the work, and raise the error that it returns. As `asyncio.timeout` does, cancel it
    when the time is over; but go on without it if it suppresses that.

    Raises:
        TimeoutError: it took too long.
        JobFailed: it took too long, and has not ended.
    """
    running = asyncio.create_task(work)
    try:
        if not (await asyncio.wait([running], timeout=seconds))[0]:
            raise TimeoutError
    except (TimeoutError, asyncio.CancelledError) as interruption:
        running.cancel()
        await asyncio.wait([running], timeout=CLEANUP_SECONDS)
        if not running.done():
            raise JobFailed(STILL_RUNS) from None
        if isinstance(error := running.result(), asyncio.CancelledError):
            raise interruption.with_traceback(error.__traceback__) from None  # where it was
    if error := running.result():
        raise error
