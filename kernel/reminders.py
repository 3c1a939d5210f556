"""What happens often is logged when it begins, and then at most every 30 seconds, with a count."""

import time
from collections.abc import Hashable
from dataclasses import dataclass

REMINDER_SECONDS = 30.0
# What has come back for less than this has not come back.
STABLE_SECONDS = 1.0
MOST_KEYS = 1000


@dataclass
class _Incident:
    told: float | None
    latest: float
    untold: int = 0


class Reminders:
    """Incidents that go on, each by its key."""

    def __init__(self) -> None:
        self._incidents: dict[Hashable, _Incident] = {}

    def count(self, key: Hashable) -> int:
        """Count an incident; give how many there were since the last time to tell it, or 0 if it is
        not yet time again."""
        now = time.monotonic()
        if len(self._incidents) >= MOST_KEYS:
            self._incidents.clear()
        incident = self._incidents.setdefault(key, _Incident(None, now))
        incident.latest = now
        incident.untold += 1
        if incident.told is not None and now - incident.told < REMINDER_SECONDS:
            return 0
        incident.told, untold, incident.untold = now, incident.untold, 0
        return untold

    def end(self, key: Hashable) -> int | None:
        """Forget an incident that is over; give how many were not told, or None if it was none."""
        incident = self._incidents.get(key)
        if incident is None or time.monotonic() - incident.latest < STABLE_SECONDS:
            return None
        del self._incidents[key]
        return incident.untold
