"""How many jobs wait, looked at four times a minute, in each process."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from kernel.context import jobs_context
from kernel.data.independent import session_of
from kernel.data.jobs import COUNT
from kernel.data.resources import HasState, resources_of
from kernel.driver_errors import DRIVER_ERRORS, PoolTimeout
from kernel.errors import ServiceError
from kernel.jobs.tasks import TASKS
from kernel.metrics import Family
from kernel.reminders import Reminders

COUNT_SECONDS = 15.0
TASK = ("task",)
WAITING = Family("jobs_waiting", "Jobs that wait.", TASK, "highest")
OLDEST = Family("jobs_oldest_seconds", "For how long the oldest job has been due.", TASK, "highest")
FAILED = Family("jobs_failed", "Jobs that have failed for good.", TASK, "highest")
UNKNOWN = Family("jobs_unknown", "Jobs that wait for a task that this code has not.", (), "highest")
NOBODYS = "jobs wait for a task that this code does not have: a later version may"
logger = logging.getLogger(__name__)


@asynccontextmanager
async def counted(app: HasState) -> AsyncIterator[None]:
    """Count jobs as long as this lasts."""
    counting = asyncio.create_task(Gauges(app).keep_counting())
    try:
        yield
    finally:
        counting.cancel()
        with suppress(asyncio.CancelledError):
            await counting


class Gauges:
    """One process's look at the table."""

    def __init__(self, app: HasState) -> None:
        self._app, self._known, self._reminders = app, {*TASKS}, Reminders()
        self._set({})  # a rate, or an alert, begins with a number

    async def keep_counting(self) -> None:
        with jobs_context(self._app):
            while True:
                await asyncio.sleep(COUNT_SECONDS)
                try:
                    await self.count()
                except (*DRIVER_ERRORS, ServiceError, PoolTimeout):
                    continue  # which the pool has told of

    async def count(self) -> None:
        """Look now."""
        async with session_of(resources_of(self._app).writer) as session:
            rows = await (await session.unit.begin()).run(COUNT)
        nobodys = self._set({row["task"]: row for row in rows})
        for name, waiting in nobodys.items():
            if waiting and self._reminders.count(name):
                logger.warning(NOBODYS, extra={"fields": {"task": name, "waiting": waiting}})

    def _set(self, found: dict[str, Any]) -> dict[str, int]:
        """Tell these; how many wait for each task that is not there."""
        self._known |= found.keys()
        for name in self._known:
            waiting, failed, oldest = found[name][1:] if name in found else (0, 0, 0.0)
            WAITING.set(waiting, name)
            FAILED.set(failed, name)
            OLDEST.set(oldest or 0.0, name)
        nobodys = {name: row["waiting"] for name, row in found.items() if name not in TASKS}
        UNKNOWN.set(sum(nobodys.values()))
        return nobodys
