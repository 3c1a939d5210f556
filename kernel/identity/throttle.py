"""How often a password may be wrong: of an account from an address, of an account, from an address.

The counts are in PostgreSQL, so all workers and replicas share them; all code that verifies a
password counts here. An attempt is admitted before its password is verified, or many at once would
slip through; while it is pending, it is not counted as a failure.
"""

import asyncio
import hashlib
import hmac
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from kernel.context import current_context, network_of
from kernel.data.independent import open_session
from kernel.data.password_attempts import ADMIT, SETTLE, SUBJECTS, SWEEP
from kernel.data.resources import Resources
from kernel.data.sweeps import sweep
from kernel.errors import TooManyRequests
from kernel.identity.events import security_event
from kernel.jobs.tasks import task

# How many times more failures an account may have from all addresses, and an address with all
# accounts.
WIDER = 10
WAITS = 5  # for pending attempts: 0.1 s, then twice as long each time
REFUSED = "too many failed attempts"


class Throttle:
    """Bounds how often a password may be wrong in a window.

    For an address from which the account has signed in lately, only the failures of that pair
    count, so a stranger cannot lock out the owner.
    """

    def __init__(
        self, key: bytes, *, most_failures: int, window: timedelta, has_worker: bool = False
    ) -> None:
        self._key, self._has_worker = key, has_worker
        self._most_failures = most_failures
        self._window = window

    async def guard(
        self, account: str, user_id: int | None, verify: Callable[[], Awaitable[bool]]
    ) -> bool:
        """Whether the password was right; `verify` runs if the attempt is admitted.

        Raises:
            TooManyRequests: with Retry-After, in seconds.
        """
        is_right, target = await self._count(account, user_id, verify)
        if not is_right:
            security_event("wrong_password", target)
        return is_right

    async def spend(self, purpose: str, account: str) -> None:
        """Count an action that a stranger could cause for an account, such as a mail: with the
        limits of wrong passwords, and counts of its own.

        Raises:
            TooManyRequests: with Retry-After, in seconds.
        """
        await self._count(account, None, _always_wrong, f"{purpose} ")

    async def _count(
        self,
        account: str,
        user_id: int | None,
        verify: Callable[[], Awaitable[bool]],
        prefix: str = "",
    ) -> tuple[bool, int | str]:
        context = current_context()
        network = network_of(context.client or "") if context else ""
        pair, *others = (
            self._digest(f"{prefix}{account} from {network}"),
            self._digest(f"{prefix}account {account}"),
            self._digest(f"{prefix}address {network}"),
        )
        target = others[0].hex()[:16] if user_id is None else user_id
        # Sorted, so that two attempts lock the rows in one order, and cannot deadlock.
        subjects = dict(zip(SUBJECTS, sorted([pair, *others]), strict=True))
        await self._admit(subjects, pair, target)
        is_right: bool | None = None  # None, so neither right nor wrong, if `verify` raises
        try:
            is_right = await verify()
        finally:
            values = {"pair": pair, "is_right": is_right is True, "wrong": int(is_right is False)}
            async with open_session() as independent_session:
                await independent_session.fetch(SETTLE, **subjects, **values)
        return is_right, target

    async def _admit(self, subjects: dict[str, bytes], pair: bytes, target: int | str) -> None:
        seconds = 1
        for attempt in range(WAITS + 1):
            async with open_session() as independent_session:
                rows = await independent_session.fetch(ADMIT, **subjects, window=self._window)
                if pair[0] == 0 and not self._has_worker:
                    await independent_session.fetch(SWEEP, window=self._window)
                wait, is_full = self._judge(rows, pair)
                if wait is None and not is_full:
                    return
                await independent_session.rollback()
            if wait is not None:
                seconds = max(1, math.ceil(wait.total_seconds()))
                break
            await asyncio.sleep(0.1 * 2**attempt * random.uniform(0.5, 1))  # noqa: S311  # jitter
        security_event("throttled", target)
        raise TooManyRequests(REFUSED, headers={"Retry-After": str(seconds)})

    def _judge(self, rows: Sequence[Any], pair: bytes) -> tuple[timedelta | None, bool]:
        """How long to wait after too many failures, or None; and whether too many are pending."""
        has_signed_in = any(row["digest"] == pair and row["succeeded_at"] for row in rows)
        waits, is_full = [], False
        for row in rows:
            if row["digest"] != pair and has_signed_in:
                continue
            most = self._most_failures * (1 if row["digest"] == pair else WIDER)
            if row["failures"] >= most:
                waits.append(row["wait"])
            is_full |= row["failures"] + row["pending"] > most
        return max(waits, default=None), is_full

    def _digest(self, subject: str) -> bytes:
        return hmac.digest(self._key, subject.encode(), hashlib.sha256)


async def _always_wrong() -> bool:
    return False


@task(external=True, every="10m")
async def sweep_password_attempts(resources: Resources) -> None:
    """Delete the counts whose window has ended."""
    await sweep(SWEEP, window=timedelta(seconds=resources.settings.sign_in_window))
