"""One run of a job: its function, its end, and what is told of it."""

import asyncio
import logging
import math
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from kernel.context import RequestContext, enter_context, leave_context
from kernel.data.independent import run_callbacks, session_of
from kernel.data.jobs import END, END_TICK, FAIL, GIVE_BACK, Job, JobFailed
from kernel.data.resources import HasState, Resources, resources_of
from kernel.data.session import WriteSession
from kernel.driver_errors import DRIVER_ERRORS, PoolTimeout
from kernel.errors import ServiceError
from kernel.jobs.tasks import TASKS, Task
from kernel.logs import summarize
from kernel.metrics import Family
from kernel.settings import ROOT

MOST_ATTEMPTS = 25
# Whoever runs a job has so many seconds more than its timeout to say what became of it.
LEASE_SECONDS = 15.0
RUNS = Family(
    "jobs_runs_total", "Runs of jobs that have ended, by their outcome.", ("task", "outcome")
)
# As one caller, who has half of a pool's connections at most.
CALLER = "jobs"
logger = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Somebody else has the job, or it has been discarded: what was done for it is undone."""


@dataclass(eq=False)
class Run:
    """A job that this process has taken. `clock` is a test's, if that is ahead of the database."""

    app: HasState
    job: Job
    waited: float
    clock: datetime | None = None
    taken: float = field(default_factory=time.monotonic)
    error: BaseException | None = None
    has_ended: bool = False

    @property
    def task(self) -> Task[Any]:
        return TASKS[self.job.task]

    @property
    def lease_seconds(self) -> float:
        """For how long it is surely nobody else's."""
        return self.task.timeout + LEASE_SECONDS - (time.monotonic() - self.taken)

    async def run(self) -> None:
        """Run it, and see to it that this is known."""
        with jobs_context(self.app, self.job.request_id) as context:
            started, level = time.perf_counter(), logging.INFO
            try:
                outcome = await self._perform(context)
            except LeaseLost:
                outcome, level = "lost", logging.WARNING
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                    raise
                self.error, level = error, logging.WARNING
                outcome = await self._fail(error)
            self.has_ended = True
            RUNS.add(1, self.job.task, outcome)
            logger.log(
                level, "job", exc_info=self.error, extra={"fields": self._fields(outcome, started)}
            )

    async def give_back(self) -> None:
        """Let somebody else run it, as if nobody had taken it."""
        await self._write(GIVE_BACK)

    async def _perform(self, context: RequestContext) -> str:
        resources, arguments = resources_of(self.app), self.task.load(self.job.arguments)
        ours: dict[type, Any] = {Job: self.job, Resources: resources}
        if self.task.is_external:
            await self._call(ours, arguments)
            await self._persist(self._end_by_itself)
            return "done"
        session = WriteSession(resources.writer.unit_of_work())
        context.unit, ours[WriteSession] = session.unit, session
        try:
            async with asyncio.timeout(self.task.timeout):
                await self._call(ours, arguments)
                await self._end(session)
                await session.finish()
        finally:
            context.unit = None
            await session.end()
        await run_callbacks(session.unit.committed)
        return "done"

    async def _call(self, ours: dict[type, Any], arguments: dict[str, Any]) -> None:
        given = {name: ours[kind] for name, kind in self.task.given.items()}
        async with asyncio.timeout(self.task.timeout):
            await self.task.function(**given, **arguments)

    async def _end(self, session: WriteSession) -> None:
        raw = await session.unit.begin()
        end = END if self.job.tick is None else END_TICK
        if not await raw.run(end, self.job.id, self.job.lease):
            raise LeaseLost

    async def _end_by_itself(self) -> None:
        async with session_of(resources_of(self.app).writer) as session:
            await self._end(session)

    async def _fail(self, error: BaseException) -> str:
        is_last = isinstance(error, JobFailed) or self.job.attempts >= MOST_ATTEMPTS
        jitter = random.uniform(0.75, 1.25)  # noqa: S311  # not a secret
        seconds = 0.0 if is_last else jitter * math.exp(min(10, self.job.attempts))
        state = "failed" if is_last else "waiting"
        values = (state, self.clock, seconds, f"{summarize(error)} at {_place_of(error)}")
        await self._persist(lambda: self._write(FAIL, *values))
        return "failed" if is_last else "retry"

    async def _write(self, sql: str, *values: Any) -> None:
        async with session_of(resources_of(self.app).writer) as session:
            await (await session.unit.begin()).run(sql, self.job.id, self.job.lease, *values)

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Say what became of the job, as long as it is this process's to say."""
        while True:
            try:
                return await write()
            except (*DRIVER_ERRORS, ServiceError, PoolTimeout):
                if self.lease_seconds < 1:
                    raise
            await asyncio.sleep(1)

    def _fields(self, outcome: str, started: float) -> dict[str, object]:
        return {
            "task": self.job.task,
            "job": self.job.id,
            "attempt": self.job.attempts,
            "outcome": outcome,
            "duration_ms": round((time.perf_counter() - started) * 1000, 1),
            "waited_ms": round(self.waited * 1000, 1),
        }


@contextmanager
def jobs_context(app: HasState, request_id: str | None = None) -> Iterator[RequestContext]:
    """As whom the work within the block uses connections, and with which id it logs."""
    context = RequestContext(app, client=CALLER)
    context.request_id = request_id or context.request_id
    token = enter_context(context)
    try:
        yield context
    finally:
        leave_context(token)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _place_of(error: BaseException) -> str:
    """Where the error was raised, in the service's own code if that is in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if each.filename.startswith(str(ROOT / "features"))]
    if not frames:
        return "an unknown place"
    frame = (own or frames)[-1]
    path = Path(frame.filename)
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
    return f"{name}:{frame.lineno} in {frame.name}"
