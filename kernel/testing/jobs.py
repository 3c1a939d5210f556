"""Background jobs in tests: no worker runs, so a test runs them itself."""

from datetime import UTC, datetime

import pytest
from fastapi import FastAPI

from kernel.context import jobs_context
from kernel.jobs.queue import Ticks, take
from kernel.jobs.tasks import TASKS


class Jobs:
    """Runs the jobs of the service under test, in this process."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.clock: datetime | None = None  # or `datetime.now(UTC)`, which may be a test's, too

    async def drain(self, *, raises: bool = True) -> list[str]:
        """Run all jobs that are due by `clock`, also those that they enqueue, and return the names
        of their tasks in order.

        Raises:
            Exception: the first error of a job. With `raises=False`, the job is retried or fails,
                as in production.
        """
        names: list[str] = []
        with jobs_context(self._app):
            while runs := await take(self._app, [*TASKS.values()], 100, self._now()):
                while runs:
                    run = runs.pop(0)
                    await run.run()
                    if raises and run.error:
                        for other in runs:  # the next call of drain() runs them
                            await other.give_back()
                        raise run.error
                    names.append(run.job.task)
        return names

    async def tick(self) -> list[str]:
        """Enqueue the scheduled tasks that are due by `clock`, and run all jobs that are due, as
        `drain` does. The first tick of a task is only recorded, not run."""
        with jobs_context(self._app):
            await Ticks(self._app).make(self._now())
        return await self.drain()

    def _now(self) -> datetime:
        return self.clock or datetime.now(UTC)


@pytest.fixture
def jobs(app: FastAPI) -> Jobs:
    """The service's jobs: `await jobs.drain()` runs what is due, in this process."""
    return Jobs(app)
