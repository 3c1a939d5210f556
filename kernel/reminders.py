"""Limits log lines about a repeated event: one when it begins, then at most one every 30 s."""

import time
from collections.abc import Hashable
from dataclasses import dataclass

REMINDER_SECONDS = 30.0
# An incident is over when it has not happened for this long.
STABLE_SECONDS = 1.0
MOST_KEYS = 1000


@dataclass
class _Incident:
    logged_at: float | None
    latest: float
    unlogged: int = 0


class Reminders:
    """The incidents that are going on, by key."""

    def __init__(self) -> None:
        self._incidents: dict[Hashable, _Incident] = {}

    def count(self, key: Hashable) -> int:
        """Count an event; return how many there were since the last log line, or 0 if it is too
        early for another line."""
        now = time.monotonic()
        if len(self._incidents) >= MOST_KEYS:
            self._incidents.clear()
        incident = self._incidents.setdefault(key, _Incident(None, now))
        incident.latest = now
        incident.unlogged += 1
        if incident.logged_at is not None and now - incident.logged_at < REMINDER_SECONDS:
            return 0
        incident.logged_at, unlogged, incident.unlogged = now, incident.unlogged, 0
        return unlogged

    def end(self, key: Hashable) -> int | None:
        """Forget an incident that is over; return how many events no line has counted, or None if
        there is no such incident, or it is not over yet."""
        incident = self._incidents.get(key)
        if incident is None or time.monotonic() - incident.latest < STABLE_SECONDS:
            return None
        del self._incidents[key]
        return incident.unlogged
