"""The service's metrics: numbers by name and labels, summed over its workers.

prometheus_client renders them (`exposition`) but does not store them: where several workers share
them, its values cost a request 4 µs, and these 0.5 µs. `metric_files` shares them.
"""

import json
import logging
import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from errno import ENOSPC
from mmap import mmap
from typing import Literal, NamedTuple

# Seconds: from the time of most operations to over the request timeout.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# The label of paths without a route, and the methods of RFC 9110 §9.3 and RFC 5789. A client can
# send any word as either, and each word would become a series that is never removed.
UNMATCHED = "unmatched"
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
# Enough for 3,000 operations, in 512 KiB.
MOST_NUMBERS = 1 << 16
# The first numbers are a header: the process's id, and one for all series beyond MOST_NUMBERS.
HEADER, OVERFLOW, FIRST_NUMBERS = 32, 1, 512
Kind = Literal["counter", "gauge", "highest", "histogram"]
Key = tuple[str, ...]
logger = logging.getLogger(__name__)


class Values:
    """Numbers in memory, or in a mapped file: `series` has where those of a key begin."""

    def __init__(self, numbers_file: int | None = None, series_file: int | None = None) -> None:
        self._numbers_file, self._series_file = numbers_file, series_file
        self.series: dict[Key, int] = {}
        self.numbers = self._map(FIRST_NUMBERS)
        self.used, self._is_full = HEADER, False

    def reserve(self, key: Key, width: int) -> int:
        """The index of a new series' first number; OVERFLOW for all when there is no room."""
        if self._is_full:
            return OVERFLOW
        place = self.used
        try:
            while place + width > len(self.numbers):
                self.numbers = self._map(2 * len(self.numbers))
            if self._series_file is not None:
                _append(self._series_file, json.dumps([place, width, *key]).encode() + b"\n")
        except OSError as error:
            self._is_full = True
            logger.warning("no room for further metrics, which are not counted: %s", error.strerror)
            return OVERFLOW
        self.used += width
        self.series[key] = place
        return place

    def _map(self, count: int) -> "memoryview[float]":
        if count > MOST_NUMBERS:
            raise OSError(ENOSPC, f"{MOST_NUMBERS} numbers are the most")
        size = count * 8
        if self._numbers_file is None:
            memory = mmap(-1, size)
            if self.series:
                memory[: self.numbers.nbytes] = self.numbers.cast("B")
        else:
            # Zeros are written first: on a full file system that is an error here, while writing
            # to the map would be a signal (SIGBUS), which ends the worker.
            present = os.fstat(self._numbers_file).st_size
            _append(self._numbers_file, bytes(max(0, size - present)))
            memory = mmap(self._numbers_file, max(size, present))
        return memoryview(memory).cast("d")


def _append(file: int, content: bytes) -> None:
    """Write all of the content at the end of the file, or nothing: a full disk takes a part.

    Raises:
        OSError: there is no room for it.
    """
    end = os.fstat(file).st_size
    if os.pwrite(file, content, end) < len(content):
        os.ftruncate(file, end)
        raise OSError(ENOSPC, os.strerror(ENOSPC))


@dataclass(frozen=True)
class Family:
    """A metric. Gauges of live workers are added up; of "highest", the largest counts."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Kind = "counter"

    def __post_init__(self) -> None:
        FAMILIES[self.name] = self

    @property
    def is_gauge(self) -> bool:
        """Whether it is the current state of a worker, and so is not kept for a dead one."""
        return self.kind in {"gauge", "highest"}

    @property
    def width(self) -> int:
        """How many numbers a series has: for a histogram, one for each bucket, and the sum."""
        return len(BUCKETS) + 2 if self.kind == "histogram" else 1

    def place(self, *labels: str) -> int:
        """Where in `STATE.values.numbers` the series begins; this may replace that attribute."""
        key = (self.name, *labels)
        place = STATE.values.series.get(key)
        return STATE.values.reserve(key, self.width) if place is None else place

    def add(self, amount: float, *labels: str) -> None:
        place = self.place(*labels)
        STATE.values.numbers[place] += amount

    def set(self, value: float, *labels: str) -> None:
        place = self.place(*labels)
        STATE.values.numbers[place] = value


class State:
    """The values of this process, and the indexes that it has looked up."""

    def __init__(self) -> None:
        self.use(Values())
        self.under_way = 0

    def use(self, values: Values) -> None:
        self.values = values
        self.answers: dict[tuple[str, str, int], int] = {}
        self.operations: dict[tuple[str, str], tuple[int, int, int]] = {}


STATE = State()
FAMILIES: dict[str, Family] = {}
OPERATION = ("method", "route")
ANSWERS = Family(
    "http_requests_total", "Requests that have ended, by status.", (*OPERATION, "status")
)
DURATION = Family(
    "http_request_duration_seconds",
    "Seconds from a request's head to the end of its answer.",
    OPERATION,
    "histogram",
)
QUERIES = Family("http_request_queries_total", "Queries that requests have run.", OPERATION)
DATABASE_SECONDS = Family(
    "http_request_database_seconds_total", "Seconds that requests' queries took.", OPERATION
)
REFUSED = Family("http_requests_refused_total", "Requests refused before any work.", ("cause",))
UNDER_WAY = Family("http_requests_in_flight", "Requests under way.", (), "gauge")
REFUSALS = Family(
    "database_refusals_total",
    "Connections and statements that the database or a pool refused, by reason.",
    ("pool", "reason"),
)
OUTAGE = Family("database_outage", "Workers with such an outage.", ("pool", "reason"), "gauge")
REPLICA_AWAY = Family(
    "database_replica_away", "Workers whose reads go to the primary instead.", (), "gauge"
)
RETRIES = Family("database_retries_total", "Retries of reads and writes.", ("kind", "cause"))


def count_answer(method: str, route: str | None, status: int) -> None:
    """Count a response."""
    method = method if method in METHODS else "other"
    route = route or UNMATCHED
    place = STATE.answers.get((method, route, status))
    if place is None:
        place = ANSWERS.place(method, route, str(status))
        STATE.answers[method, route, status] = place
    STATE.values.numbers[place] += 1.0


class Cost(NamedTuple):
    """What a request took; times in seconds."""

    seconds: float
    queries: int
    database_seconds: float


def count_request(method: str, route: str | None, status: int, cost: Cost) -> None:
    """Count a request that has ended."""
    count_answer(method, route, status)
    seconds, queries, database_seconds = cost
    key = (method if method in METHODS else "other", route or UNMATCHED)
    places = STATE.operations.get(key)
    if places is None:
        places = (DURATION.place(*key), QUERIES.place(*key), DATABASE_SECONDS.place(*key))
        STATE.operations[key] = places
    duration, query, time = places
    numbers = STATE.values.numbers
    numbers[duration + bisect_left(BUCKETS, seconds)] += 1.0
    numbers[duration + len(BUCKETS) + 1] += seconds
    if queries:
        numbers[query] += queries
        numbers[time] += database_seconds


# A worker's series and where each begins, its numbers, and whether it lives.
WorkerMetrics = tuple[Mapping[Key, int], "memoryview[float]", bool]
