"""How often a password may be wrong: of an account from an address, of an account, from an address.

The counts are in Postgres, so for all workers and replicas, and whoever verifies a password counts
here. An attempt is admitted before its password is looked at, or many at once would slip through;
while it is under way it is no failure.
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
from kernel.data.password_attempts import ADMIT, SETTLE, SUBJECTS, SWEEP, SWEPT_AT_ONCE
from kernel.data.resources import Resources
from kernel.errors import TooManyRequests
from kernel.identity.events import security_event
from kernel.jobs.tasks import task

# So many failures more may an account have from all addresses, and an address with all accounts.
WIDER = 10
WAITS = 5  # for attempts under way, of 0.1 s and then twice as long each time
REFUSED = "too many failed attempts"


class Throttle:
    """Bounds how often a password may be wrong in a window.

    An address from which the account has signed in of late is held to the failures of the two
    alone, so no stranger can lock its owner out.
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
        """Whether the password was right.

        Raises:
            TooManyRequests: with Retry-After, in seconds.
        """
        is_right, target = await self._count(account, user_id, verify)
        if not is_right:
            security_event("wrong_password", target)
        return is_right

    async def spend(self, purpose: str, account: str) -> None:
        """Count what a stranger may have done to an account, a mail, say: as often as a password
        may be wrong, and apart from these.

        Raises:
            TooManyRequests: with Retry-After, in seconds.
        """
        await self._count(account, None, _is_spent, f"{purpose} ")

    async def _count(
        self, account: str, user_id: int | None, verify: Callable[[], Awaitable[bool]], of: str = ""
    ) -> tuple[bool, int | str]:
        context = current_context()
        network = network_of(context.client or "") if context else ""
        pair, *others = (
            self._digest(f"{of}{account} from {network}"),
            self._digest(f"{of}account {account}"),
            self._digest(f"{of}address {network}"),
        )
        target = others[0].hex()[:16] if user_id is None else user_id
        # In one order, so that two attempts cannot wait for each other.
        subjects = dict(zip(SUBJECTS, sorted([pair, *others]), strict=True))
        await self._admit(subjects, pair, target)
        is_right: bool | None = None  # nor wrong, if it fails
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
        """How long to wait, if it was wrong too often; and whether too many are under way."""
        is_known = any(row["digest"] == pair and row["succeeded_at"] for row in rows)
        waits, is_full = [], False
        for row in rows:
            if row["digest"] != pair and is_known:
                continue
            most = self._most_failures * (1 if row["digest"] == pair else WIDER)
            if row["failures"] >= most:
                waits.append(row["wait"])
            is_full |= row["failures"] + row["pending"] > most
        return max(waits, default=None), is_full

    def _digest(self, subject: str) -> bytes:
        return hmac.digest(self._key, subject.encode(), hashlib.sha256)


async def _is_spent() -> bool:
    return False


@task(external=True, every="1m")
async def sweep_password_attempts(resources: Resources) -> None:
    """Take away what is over, and of which nothing has to be known any more."""
    window, swept = timedelta(seconds=resources.settings.sign_in_window), SWEPT_AT_ONCE
    while swept == SWEPT_AT_ONCE:
        async with open_session() as session:
            connection = await session.connection()
            swept = (await connection.execute(SWEEP, {"window": window})).rowcount
