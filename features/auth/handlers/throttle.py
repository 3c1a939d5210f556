import hashlib
import hmac
import math
from datetime import timedelta
from ipaddress import ip_network

from sqlalchemy import Interval, bindparam, case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from features.auth.models import SignInAttempt
from kernel import TooManyRequests, WriteSession, open_session

since, failures = col(SignInAttempt.since), col(SignInAttempt.failures)
WINDOW = bindparam("window", type_=Interval)
IS_OVER = since < func.now() - WINDOW
COUNT = (
    insert(SignInAttempt)
    .values([{"digest": bindparam("account")}, {"digest": bindparam("client")}])
    .on_conflict_do_update(
        index_elements=["digest"],
        set_={
            "failures": case((IS_OVER, 1), else_=failures + 1),
            "since": case((IS_OVER, func.now()), else_=since),
        },
    )
    .returning(failures, (since + WINDOW - func.now()).cast(Interval))
)
digest = col(SignInAttempt.digest)
# Locked in the order in which they are counted, or the two could wait for each other in a circle.
BOTH = (
    select(digest)
    .where(digest.in_([bindparam("account"), bindparam("client")]))
    .order_by(digest)
    .with_for_update()
)
FORGIVE = (
    update(SignInAttempt)
    .where(digest.in_(BOTH))
    .values(failures=case((digest == bindparam("account"), 0), else_=failures - 1))
)
SWEEP = delete(SignInAttempt).where(IS_OVER)


class Throttle:
    """Bounds how often a sign-in may fail, for an account and from an address, in a window.

    It counts in Postgres, so for all workers and replicas. An attempt is counted before its
    password is looked at, or many at once would slip through; a success takes it back.
    """

    def __init__(self, key: bytes, *, most_failures: int, window: timedelta) -> None:
        self._key = key
        self._most_failures = most_failures
        self._window = window

    async def count(self, email: str, address: str) -> None:
        """Count an attempt, in a transaction of its own.

        Raises:
            TooManyRequests: with Retry-After, in seconds.
        """
        account, client = self._digests(email, address)
        # In one order, so that two attempts cannot wait for each other.
        first, second = sorted((account, client))
        async with open_session() as independent_session:
            connection = await independent_session.connection()
            values = {"account": first, "client": second, "window": self._window}
            counted = (await connection.execute(COUNT, values)).all()
            if account[0] == 0:
                await connection.execute(SWEEP, {"window": self._window})
        waits = [wait for number, wait in counted if number > self._most_failures]
        if waits:
            seconds = max(1, math.ceil(max(waits).total_seconds()))
            raise TooManyRequests("too many failed attempts", headers={"Retry-After": str(seconds)})

    async def forgive(self, session: WriteSession, email: str, address: str) -> None:
        """Take a successful attempt back, and the account's failures with it."""
        account, client = self._digests(email, address)
        connection = await session.connection()
        await connection.execute(FORGIVE, {"account": account, "client": client})

    def _digests(self, email: str, address: str) -> tuple[bytes, bytes]:
        # An IPv6 client has a whole /64 to choose its address from.
        network = f"{ip_network(f'{address}/64', strict=False)}" if ":" in address else address
        return self._digest(f"account {email}"), self._digest(f"address {network}")

    def _digest(self, subject: str) -> bytes:
        return hmac.digest(self._key, subject.encode(), hashlib.sha256)
