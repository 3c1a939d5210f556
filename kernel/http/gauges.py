"""Gauges of a worker, sampled once a second, so that requests do not pay for them."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

from kernel.data.resources import Resources
from kernel.data.retries import CAUSES
from kernel.data.schema import head_revision
from kernel.data.sqlstate import NO_CONNECTION, UNREACHABLE
from kernel.data.turns import Load
from kernel.identity.passwords import PasswordVault
from kernel.identity.rate_limit import RateLimiter
from kernel.metrics import REFUSALS, REFUSED, REPLICA_AWAY, RETRIES, STATE, UNDER_WAY, Family

SAMPLE_SECONDS = 1.0
POOL = ("pool",)
SIZE = Family("database_pool_size", "Connections that the pool may open.", POOL, "gauge")
IN_USE = Family("database_pool_in_use", "Connections in use.", POOL, "gauge")
WAITING = Family("database_pool_waiting", "Requests that wait for a connection.", POOL, "gauge")
HASHES = Family(
    "password_hashes",
    "Passwords that are being hashed or verified, or wait for it.",
    ("state",),
    "gauge",
)
LAG = Family(
    "event_loop_lag_seconds", "How late the event loop is, in the worst worker.", (), "highest"
)
CPU = Family("service_cpu_seconds_total", "Seconds of CPU that workers have used.")
REDIS_AWAY = Family("rate_limit_away", "Workers that let requests pass uncounted.", (), "gauge")
WORKERS = Family("service_workers", "Workers that serve.", (), "gauge")
INFO = Family("service_info", "Which service it is.", ("service", "version", "revision"), "highest")


@asynccontextmanager
async def sampled(resources: Resources) -> AsyncIterator[None]:
    """Sample the gauges within the block."""
    INFO.set(1, resources.name, resources.version, head_revision() or "")
    WORKERS.set(1)
    _begin_at_zero(resources)
    sampling = asyncio.create_task(_keep_sampling(resources))
    try:
        yield
    finally:
        sampling.cancel()
        with suppress(asyncio.CancelledError):
            await sampling


def _begin_at_zero(resources: Resources) -> None:
    """Begin counters with 0: Prometheus's rate() needs a sample from before the first event."""
    for cause in CAUSES:
        RETRIES.add(0, "read", cause)
        RETRIES.add(0, "write", cause)
    # Nested pools and streams, such as "read_streams", count as their pool.
    for pool in {name.partition("_")[0] for name, _ in _loads(resources)}:
        for reason in (NO_CONNECTION, UNREACHABLE, "share"):
            REFUSALS.add(0, pool, reason)
    for cause in ("in_flight", "rate_limit", "shed"):
        REFUSED.add(0, cause)
    REPLICA_AWAY.set(0)


def _loads(resources: Resources) -> Iterator[tuple[str, Load]]:
    yield from resources.writer.loads()
    for reader in (resources.primary, resources.reader, resources.schema.pool):
        yield from reader.loads()


async def _keep_sampling(resources: Resources) -> None:
    cpu, due = 0.0, time.monotonic()
    while True:
        LAG.set(max(0.0, time.monotonic() - due))
        before, cpu = cpu, time.process_time()
        CPU.add(cpu - before)
        sample(resources)
        due = time.monotonic() + SAMPLE_SECONDS
        await asyncio.sleep(SAMPLE_SECONDS)


def sample(resources: Resources) -> None:
    """Set the gauges to the present values."""
    UNDER_WAY.set(STATE.under_way)
    if resources.settings.rate_limit:
        REDIS_AWAY.set(resources.get(RateLimiter).away)
    for name, load in _loads(resources):
        SIZE.set(load.size, name)
        IN_USE.set(load.in_use, name)
        WAITING.set(load.waiting, name)
    hashes = resources.get(PasswordVault).load()
    HASHES.set(hashes.in_use, "running")
    HASHES.set(hashes.waiting, "waiting")
