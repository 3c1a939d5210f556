"""The table of password attempts, and its statements."""

from datetime import datetime, timedelta

from sqlalchemy import (
    Boolean,
    Integer,
    Interval,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Field, SQLModel, col

from kernel.data.sweeps import sweeping

SUBJECTS = ("first", "second", "third")


class PasswordAttempt(SQLModel, table=True):
    """The recent failed attempts for one subject (`digest`, see `SUBJECTS`), and how many are being
    verified now."""

    __tablename__ = "sign_in_attempts"

    digest: bytes = Field(primary_key=True)
    failures: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    pending: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    since: datetime = Field(
        default=None, index=True, sa_column_kwargs={"server_default": func.now()}
    )
    succeeded_at: datetime | None = None


# For how long after a success an address is known to the account: others cannot lock it there.
KNOWN_FOR = literal(timedelta(days=90), Interval)
digest, since = col(PasswordAttempt.digest), col(PasswordAttempt.since)
failures, pending = col(PasswordAttempt.failures), col(PasswordAttempt.pending)
succeeded_at = col(PasswordAttempt.succeeded_at)
WINDOW = bindparam("window", type_=Interval)
IS_OVER = since < func.now() - WINDOW
ADMIT = (
    insert(PasswordAttempt)
    .values([{"digest": bindparam(name), "failures": 0, "pending": 1} for name in SUBJECTS])
    .on_conflict_do_update(
        index_elements=["digest"],
        set_={
            "failures": case((IS_OVER, 0), else_=failures),
            "pending": case((IS_OVER, 1), else_=pending + 1),
            "since": case((IS_OVER, func.now()), else_=since),
        },
    )
    .returning(
        digest,
        failures,
        pending,
        succeeded_at,
        (since + WINDOW - func.now()).cast(Interval).label("wait"),
    )
)
# Locked in one order, that of ADMIT, or two settlements could deadlock.
LOCKED = (
    select(digest)
    .where(digest.in_([bindparam(name) for name in SUBJECTS]))
    .order_by(digest)
    .with_for_update()
)
IS_SUCCESS = and_(digest == bindparam("pair"), bindparam("is_right", type_=Boolean))
SETTLE = (
    update(PasswordAttempt)
    .where(digest.in_(LOCKED))
    .values(
        failures=case((IS_SUCCESS, 0), else_=failures + bindparam("wrong", type_=Integer)),
        pending=func.greatest(pending - 1, 0),
        succeeded_at=case((IS_SUCCESS, func.now()), else_=succeeded_at),
    )
)
IS_FORGOTTEN = or_(succeeded_at.is_(None), succeeded_at < func.now() - KNOWN_FOR)
SWEEP = sweeping(PasswordAttempt, digest, IS_OVER, IS_FORGOTTEN)
