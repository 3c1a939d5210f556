"""Windows in Redis, shared by all replicas; while Redis is away, requests pass uncounted."""

import asyncio
import logging
import time
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from kernel.identity.windows import SCRIPT, Quota, Rate

# How long a request waits for Redis; after one timeout, Redis is away until it answers again.
TIMEOUT_SECONDS = 0.1
RETRY_SECONDS = 1.0
CONNECTIONS = 16
AWAY = "requests pass uncounted: Redis cannot be used"
logger = logging.getLogger(__name__)


class RedisWindows:
    """See `windows.Windows`. `away` tells whether requests pass uncounted now, `uncounted` how many
    have since the start."""

    def __init__(self, url: str, rate: Rate, prefix: str) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._redis = Redis.from_pool(pool)
        self._script = self._redis.register_script(SCRIPT)
        self._rate, self._prefix = rate, prefix
        self.away, self.uncounted = False, 0
        self._recovery: asyncio.Task[None] | None = None

    async def count(self, caller: str, cost: int) -> Quota | None:
        """See `Windows`; None, while Redis is away, lets the request pass."""
        if not self.away:
            began = time.monotonic()
            try:
                return await self._count(caller, cost, TIMEOUT_SECONDS)
            except (RedisError, OSError) as error:
                # A longer wait means that this process was late, which says nothing of Redis.
                if time.monotonic() - began < 2 * TIMEOUT_SECONDS:
                    self._leave(error)
        self.uncounted += cost
        return None

    async def close(self) -> None:
        """Close the connections."""
        if self._recovery is not None:
            self._recovery.cancel()
        await self._redis.aclose()

    async def _count(self, caller: str, cost: int, seconds: float) -> Quota:
        async with asyncio.timeout(seconds):
            reply: Any = await self._script([f"{self._prefix}:{caller}"], [*self._rate, cost])
        may_pass, remaining, wait = reply
        return Quota(bool(may_pass), int(remaining), float(wait))

    def _leave(self, error: Exception) -> None:
        if self.away:
            return  # another request was first
        self.away = True
        logger.warning(AWAY, extra={"fields": {"error": type(error).__qualname__}})
        self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        """Try again until Redis counts, for a caller that no request has."""
        before = self.uncounted
        while self.away:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                await self._count("nobody", 1, RETRY_SECONDS)
            except (RedisError, OSError):
                continue
            self.away = False
        fields = {"requests": self.uncounted - before}
        logger.warning("requests are counted again: Redis can be used", extra={"fields": fields})
