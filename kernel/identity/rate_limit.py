"""`RateLimiter`: how many requests a caller may send in a while (`APP_RATE_LIMIT`).

A caller is an account or, without a credential, the client's network; so an office behind one
address is as many callers as have signed in there. The owner of a credential is known after the
lookup; the process caches it for a minute, so that a caller over the limit costs no query. A
request with a credential that is not cached goes on to the lookup, unless its network has sent too
many credentials that were not valid.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from kernel.context import RequestContext, network_of
from kernel.errors import TooManyRequests
from kernel.identity.windows import MemoryWindows, Quota, Rate, Windows, whole
from kernel.metrics import REFUSED
from kernel.settings import Settings

EXEMPT = {"/livez", "/readyz", "/metrics"}
REMEMBERED_SECONDS = 60.0
MOST_REMEMBERED = 10_000
LIMITED = "too many requests; try again later"


class OverLimit(TooManyRequests):
    """The caller is over the rate limit."""


class RateLimiter:
    """Counts each request once, for its caller; `varying` are the request headers that may hold a
    credential."""

    def __init__(self, rate: Rate, windows: Windows, varying: Sequence[str]) -> None:
        self._rate, self._windows = rate, windows
        self._names = [name.lower().encode() for name in varying]
        self._accounts: dict[int, tuple[int, float]] = {}
        # RateLimit-Policy and RateLimit: draft-ietf-httpapi-ratelimit-headers-10 §3 and §4.
        self._policy = b'"caller";q=%d;w=%d' % rate

    @property
    def away(self) -> bool:
        """Whether requests pass uncounted, because Redis cannot be used."""
        return bool(getattr(self._windows, "away", False))

    @property
    def uncounted(self) -> int:
        """How many requests have passed uncounted since the start."""
        return int(getattr(self._windows, "uncounted", 0))

    async def close(self) -> None:
        await self._windows.close()

    @asynccontextmanager
    async def counting(
        self, context: RequestContext, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]
    ) -> AsyncIterator[None]:
        """Count a request, which is served in the block, for its caller.

        Raises:
            OverLimit: the caller is over the limit.
        """
        if scope["path"].removeprefix(scope.get("root_path", "")) in EXEMPT:
            yield
            return
        await self._admit(context, headers)
        try:
            yield
        finally:
            # A credential that was not valid counts for the client's network.
            if context.limited_as is None and context.credential is not None:
                await self._windows.count(_unidentified(context), 1)

    async def _admit(self, context: RequestContext, headers: Mapping[bytes, bytes]) -> None:
        """Count the request for its caller, if that is known before the lookup."""
        context.rate_limiter = self
        sent = [headers[name] for name in self._names if name in headers]
        if not sent:
            await self._count(context, _address(context))
            return
        context.credential = hash(tuple(sent))
        account, until = self._accounts.get(context.credential, (None, 0.0))
        if account is not None and until > time.monotonic():
            await self._count(context, f"account:{account}")
        else:
            await self._count(context, _unidentified(context), cost=0)

    async def count_account(self, context: RequestContext, account: int) -> None:
        """Count a request after the lookup, unless it is counted for this account already.

        Raises:
            OverLimit: the caller is over the limit.
        """
        caller = f"account:{account}"
        if context.credential is not None:
            if len(self._accounts) >= MOST_REMEMBERED:
                self._accounts.clear()
            self._accounts[context.credential] = account, time.monotonic() + REMEMBERED_SECONDS
        if context.limited_as != caller:
            await self._count(context, caller)

    def forget(self, context: RequestContext) -> None:
        """Drop the cached owner of the request's credential: it is not valid, or not any more."""
        if context.credential is not None:
            self._accounts.pop(context.credential, None)
            context.limited_as = None

    async def _count(self, context: RequestContext, caller: str, cost: int = 1) -> None:
        quota = await self._windows.count(caller, cost)
        if cost or (quota and not quota.may_pass):
            context.limited_as = caller
            context.quota = self._fields(quota) if quota else ()
        if quota and not quota.may_pass:
            REFUSED.add(1, "rate_limit")
            raise OverLimit(LIMITED, headers={"Retry-After": str(whole(quota.seconds))})

    def _fields(self, quota: Quota) -> tuple[tuple[bytes, bytes], ...]:
        now = b'"caller";r=%d;t=%d' % (quota.remaining, whole(quota.seconds))
        return (b"ratelimit-policy", self._policy), (b"ratelimit", now)


def _address(context: RequestContext) -> str:
    return f"address:{network_of(context.client or '')}"


def _unidentified(context: RequestContext) -> str:
    return f"nobody:{network_of(context.client or '')}"


def rate_limiter(settings: Settings, name: str, varying: Sequence[str]) -> RateLimiter | None:
    """The limiter of the settings, or None without APP_RATE_LIMIT. It counts in Redis if there is
    one, or else in this process. It does not connect yet."""
    if settings.rate_limit is None:
        return None
    rate, url = Rate.parse(settings.rate_limit), settings.shared_counters_url
    if url is None:
        return RateLimiter(rate, MemoryWindows(rate), varying)
    from kernel.identity.redis_windows import RedisWindows  # noqa: PLC0415  # an optional package

    return RateLimiter(rate, RedisWindows(url, rate, f"{name}:rate"), varying)
