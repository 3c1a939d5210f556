"""The schedule of a task: `every` or `cron`."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
NO_EVERY = 'every="{}" should be a number and a unit, s, m, h, d or w, as in every="1h"'


@dataclass(frozen=True)
class Schedule:
    """Every `seconds`, counted from 1970-01-01T00:00Z, or by a cron expression in UTC: five
    fields, or six of which the first is seconds (cronsim)."""

    seconds: int = 0
    cron: str = ""

    def latest(self, now: datetime) -> datetime:
        """The newest tick that is not after `now`."""
        if self.cron:
            behind = now.astimezone(UTC) + timedelta(microseconds=1)
            return next(CronSim(self.cron, behind, reverse=True))
        return datetime.fromtimestamp(now.timestamp() // self.seconds * self.seconds, UTC)


def make_schedule(every: str | None, cron: str | None) -> Schedule | None:
    """The schedule that a task's decorator asks for, or None.

    Raises:
        ValueError: one is not valid, or both are set.
    """
    if every is not None and cron is not None:
        raise ValueError("a task has one schedule: every= or cron=")
    if cron is not None:
        try:
            next(CronSim(cron, datetime.now(UTC), reverse=True))
        except (CronSimError, StopIteration) as error:
            raise ValueError(f'cron="{cron}": {str(error) or "no day is so"}') from None
        return Schedule(cron=cron)
    if every is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", every)
    if match is None:
        raise ValueError(NO_EVERY.format(every))
    return Schedule(seconds=int(match[1]) * UNITS[match[2]])
