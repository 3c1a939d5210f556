"""A sliding window counter for requests: in the memory of one process, or in Redis for all.

A caller's window begins with its first request, and lets exactly the rate's amount pass. After it,
the previous window counts in proportion to its overlap with the last `seconds`, as if its requests
had come evenly; so each window is one number, however many requests it has.

The package `limits` was measured for this (5.8, asyncio): in memory, its moving window uses a
thread for every caller again and again, and its sliding counter walks over all callers in each
request (474 µs at 2,000 callers). In Redis, each replica uses its own clock, and the remaining
quota takes a further query.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
MOST_CALLERS = 100_000


class Rate(NamedTuple):
    """So many requests in so many seconds."""

    amount: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """The rate out of `600/minute`."""
        amount, _, unit = text.partition("/")
        return cls(int(amount), SECONDS[unit])


class Quota(NamedTuple):
    """The result of a count: whether the request may pass, how many more may now, and in how many
    seconds there will be more."""

    may_pass: bool
    remaining: int
    seconds: float


class Windows(Protocol):
    """Where requests are counted, by their callers."""

    async def count(self, caller: str, cost: int) -> Quota | None:
        """Count the request, unless it may not pass; at a `cost` of 0, count nothing. None if the
        counter cannot be reached."""

    async def close(self) -> None:
        """Close the connections."""


@dataclass(slots=True)
class _Window:
    since: float
    count: int = 0
    before: int = 0


class MemoryWindows:
    """The windows of one process. Callers without a request for two windows are dropped, and some
    earlier if there are more than `MOST_CALLERS`."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._windows: dict[str, _Window] = {}
        self._older: dict[str, _Window] = {}
        self._aged = clock()

    async def count(self, caller: str, cost: int) -> Quota:
        """See `Windows`."""
        now, (amount, seconds) = self._clock(), self._rate
        window = self._window(caller, now)
        if now - window.since >= seconds:
            window.since, window.count, window.before = window.since + seconds, 0, window.count
        if now - window.since >= seconds or not (window.count or window.before):
            window.since, window.before = now, 0  # this request is its first
        age = now - window.since
        used = window.before * (1 - age / seconds) + window.count
        if used + 1 > amount:
            return Quota(False, 0, _wait(self._rate, window.before, window.count, age))
        window.count += cost
        return Quota(True, int(amount - used - cost), seconds - age)

    async def close(self) -> None:
        """Nothing is open."""

    def _window(self, caller: str, now: float) -> _Window:
        if now - self._aged >= 2 * self._rate.seconds or len(self._windows) >= MOST_CALLERS:
            self._older, self._windows, self._aged = self._windows, {}, now
        if (window := self._windows.get(caller)) is None:
            window = self._older.pop(caller, None) or _Window(now)
            self._windows[caller] = window
        return window


def _wait(rate: Rate, before: int, count: int, age: float) -> float:
    """In how many seconds another request may pass, for a caller who has used up its amount."""
    amount, seconds = rate
    if count < amount:
        return seconds * (1 - (amount - 1 - count) / before) - age
    return seconds - age + seconds / amount


# `MemoryWindows.count` as one atomic step on the server, by its clock. KEYS: the caller's; ARGV:
# amount, seconds, cost. The key expires when its window no longer counts.
SCRIPT = """
local amount, seconds, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local stored = redis.call('HMGET', KEYS[1], 'since', 'count', 'before')
local since = tonumber(stored[1]) or now
local count, before = tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
local age = now - since
if age >= 2 * seconds or age < 0 then
    since, count, before, age = now, 0, 0, 0
elseif age >= seconds then
    since, count, before, age = since + seconds, 0, count, age - seconds
end
local used = before * (1 - age / seconds) + count
if used + 1 > amount then
    local wait = seconds - age + seconds / amount
    if count < amount then
        wait = seconds * (1 - (amount - 1 - count) / before) - age
    end
    return {0, 0, tostring(wait)}
end
if cost > 0 then
    local stamp = string.format('%.6f', since)
    redis.call('HSET', KEYS[1], 'since', stamp, 'count', count + cost, 'before', before)
    redis.call('PEXPIRE', KEYS[1], math.ceil((2 * seconds - age) * 1000))
end
return {1, math.floor(amount - used - cost), tostring(seconds - age)}
"""


def whole(seconds: float) -> int:
    """Whole seconds, at least one, as `Retry-After` has them (RFC 9110 §10.2.3)."""
    return max(1, math.ceil(seconds))
