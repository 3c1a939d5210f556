"""`RateLimiter`: how many requests a caller may send in a while (`APP_RATE_LIMIT`).

A caller is an account or, for who sends no credential, an address; an office behind one address
is as many callers as have signed in there. Whose credential it is, is known when it was looked up:
for a minute the process remembers that, so that a caller who is over the limit costs no query. A
request whose credential it does not know passes on to the lookup, unless its address has sent as
many that turned out to be nobody's.
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
    """The caller has sent as many requests as it may in a while."""


class RateLimiter:
    """Counts requests by their callers, each at most once; `varying` are the headers in which a
    request may have a credential."""

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
        """How many requests have passed so."""
        return int(getattr(self._windows, "uncounted", 0))

    async def close(self) -> None:
        await self._windows.close()

    @asynccontextmanager
    async def counting(
        self, context: RequestContext, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]
    ) -> AsyncIterator[None]:
        """Count a request, which is served in the block, for its caller.

        Raises:
            OverLimit: it is one too many.
        """
        if scope["path"].removeprefix(scope.get("root_path", "")) in EXEMPT:
            yield
            return
        await self._admit(context, headers)
        try:
            yield
        finally:
            # What was for nobody, and let pass, is its address's.
            if context.limited_as is None and context.credential is not None:
                await self._windows.count(_nobodys(context), 1)

    async def _admit(self, context: RequestContext, headers: Mapping[bytes, bytes]) -> None:
        """Count the request for whoever has sent it, as far as that is known by now."""
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
            await self._count(context, _nobodys(context), cost=0)

    async def count_account(self, context: RequestContext, account: int) -> None:
        """Count a request whose caller was looked up, unless it is counted for this account.

        Raises:
            OverLimit: it is one too many.
        """
        caller = f"account:{account}"
        if context.credential is not None:
            if len(self._accounts) >= MOST_REMEMBERED:
                self._accounts.clear()
            self._accounts[context.credential] = account, time.monotonic() + REMEMBERED_SECONDS
        if context.limited_as != caller:
            await self._count(context, caller)

    def forget(self, context: RequestContext) -> None:
        """The credential is nobody's, or nobody's any more."""
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


def _nobodys(context: RequestContext) -> str:
    return f"nobody:{network_of(context.client or '')}"


def rate_limiter(settings: Settings, name: str, varying: Sequence[str]) -> RateLimiter | None:
    """The limiter that the settings ask for: it counts in Redis or, without, in this process.
    Nothing is connected yet."""
    if settings.rate_limit is None:
        return None
    rate, url = Rate.parse(settings.rate_limit), settings.shared_counters_url
    if url is None:
        return RateLimiter(rate, MemoryWindows(rate), varying)
    from kernel.identity.redis_windows import RedisWindows  # noqa: PLC0415  # it may not be there

    return RateLimiter(rate, RedisWindows(url, rate, f"{name}:rate"), varying)
