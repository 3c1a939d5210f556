"""Gauges of jobs, which each process queries four times a minute."""

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
UNKNOWN = Family("jobs_unknown", "Jobs of tasks that this version does not have.", (), "highest")
NOBODYS = "jobs wait for a task that this code does not have: a later version may"
logger = logging.getLogger(__name__)


@asynccontextmanager
async def counted(app: HasState) -> AsyncIterator[None]:
    """Query the gauges within the block."""
    counting = asyncio.create_task(Gauges(app).keep_counting())
    try:
        yield
    finally:
        counting.cancel()
        with suppress(asyncio.CancelledError):
            await counting


class Gauges:
    """One process's gauges of the jobs' table."""

    def __init__(self, app: HasState) -> None:
        self._app, self._names, self._reminders = app, {*TASKS}, Reminders()
        self._set({})  # alerts need a sample, even if it is 0

    async def keep_counting(self) -> None:
        with jobs_context(self._app):
            while True:
                await asyncio.sleep(COUNT_SECONDS)
                try:
                    await self.count()
                except (*DRIVER_ERRORS, ServiceError, PoolTimeout):
                    continue  # the pool has logged it

    async def count(self) -> None:
        """Query the table, and set the gauges."""
        async with session_of(resources_of(self._app).writer) as session:
            rows = await (await session.unit.begin()).run(COUNT)
        unknown = self._set({row["task"]: row for row in rows})
        for name, waiting in unknown.items():
            if waiting and self._reminders.count(name):
                logger.warning(NOBODYS, extra={"fields": {"task": name, "waiting": waiting}})

    def _set(self, rows: dict[str, Any]) -> dict[str, int]:
        """Set the gauges; return how many jobs wait for each task that this code does not have."""
        self._names |= rows.keys()
        for name in self._names:
            waiting, failed, oldest = rows[name][1:] if name in rows else (0, 0, 0.0)
            WAITING.set(waiting, name)
            FAILED.set(failed, name)
            OLDEST.set(oldest or 0.0, name)
        unknown = {name: row["waiting"] for name, row in rows.items() if name not in TASKS}
        UNKNOWN.set(sum(unknown.values()))
        return unknown
