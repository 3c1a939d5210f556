"""Jobs, run when a test says so: no worker runs in tests."""

from datetime import UTC, datetime

import pytest
from fastapi import FastAPI

from kernel.context import jobs_context
from kernel.jobs.queue import Ticks, take
from kernel.jobs.tasks import TASKS


class Jobs:
    """The jobs of the service that a test has."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.clock: datetime | None = None  # or `datetime.now(UTC)`, which may be a test's, too

    async def drain(self, *, raises: bool = True) -> list[str]:
        """Run what is due by the test's clock, and what is enqueued meanwhile and is due; the
        names of the tasks, in their order. The first error of one is raised, unless `raises` is
        false: then it is tried again when it is due, and the job has failed or not."""
        names: list[str] = []
        with jobs_context(self._app):
            while taken := await take(self._app, [*TASKS.values()], 100, self._now()):
                for run in taken:
                    await run.run()
                    if raises and run.error:
                        raise run.error
                    names.append(run.job.task)
        return names

    async def tick(self) -> list[str]:
        """Enqueue what is due by its schedule by the test's clock, and run it with all else. The
        first time that a task has is not run."""
        with jobs_context(self._app):
            await Ticks(self._app).make(self._now())
        return await self.drain()

    def _now(self) -> datetime:
        return self.clock or datetime.now(UTC)


@pytest.fixture
def jobs(app: FastAPI) -> Jobs:
    """The service's jobs: `await jobs.drain()` runs what is due, in this process."""
    return Jobs(app)
