"""Taking due jobs from the table, and enqueueing those of schedules."""

import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from kernel.data.independent import session_of
from kernel.data.jobs import TAKE, TAKE_TURNS, TICK, Job
from kernel.data.resources import HasState, resources_of
from kernel.jobs.runs import LEASE_SECONDS, Run
from kernel.jobs.tasks import TASKS, Task

logger = logging.getLogger(__name__)


async def take(
    app: HasState, tasks: Sequence[Task[Any]], most: int, clock: datetime | None = None
) -> list[Run]:
    """Take at most `most` due jobs of these tasks. A test may pass a `clock` ahead of now."""
    tasks, lease = random.sample(tasks, len(tasks)), uuid4()
    names, limits = [task.name for task in tasks], [task.concurrency for task in tasks]
    seconds = [task.timeout + LEASE_SECONDS for task in tasks]
    async with session_of(resources_of(app).writer) as session:
        raw = await session.unit.begin()
        if any(limits):
            await raw.run(TAKE_TURNS)
        rows = await raw.run(TAKE, clock, names, limits, seconds, most, lease)
    runs = [Run(app, job.pop("waited"), Job(**job), clock) for job in map(dict, rows)]
    # Should one of those that are not new kill its process, the others are not always behind it.
    runs, last = random.sample(runs, len(runs)), 2**63
    return sorted(runs, key=lambda run: run.job.id if run.job.attempts == 1 else last)


class Ticks:
    """Enqueues the scheduled jobs, and remembers which ticks it has handled."""

    def __init__(self, app: HasState) -> None:
        self._app, self._seen = app, dict[str, datetime]()
        # A developer's service stands still most of the time.
        self._level = logging.DEBUG if resources_of(app).settings.env == "dev" else logging.WARNING
        self._behind = timedelta()  # how far the host's clock is behind the database's

    async def make(self, clock: datetime | None = None) -> None:
        """Enqueue each scheduled task that is due. A test may pass a `clock` ahead of now."""
        for task in [*TASKS.values()]:
            if task.schedule is None:
                continue
            tick = task.schedule.latest(clock or datetime.now(UTC) + self._behind)
            if tick == self._seen.get(task.name):
                continue
            async with session_of(resources_of(self._app).writer) as session:
                (made,) = await (await session.unit.begin()).run(TICK, clock, task.name, tick)
            self._behind = made["now"] - datetime.now(UTC)
            if made["is_due"]:
                self._seen[task.name] = tick
            if (last := made["last"]) and task.schedule.latest(tick - timedelta.resolution) > last:
                extra = {"fields": {"task": task.name, "last": last, "newest": tick}}
                logger.log(self._level, "ticks were missed: the newest runs", extra=extra)
