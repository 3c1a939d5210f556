"""The table of idempotency keys, and its statements."""

from datetime import datetime

from sqlalchemy import Interval, bindparam, func, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlmodel import Field, SQLModel, col

from kernel.data.sweeps import sweeping


class IdempotencyKey(SQLModel, table=True):
    """A write that was done, with its stored response."""

    __tablename__ = "idempotency_keys"

    digest: bytes = Field(primary_key=True)
    fingerprint: bytes
    created_at: datetime = Field(
        default=None, index=True, sa_column_kwargs={"server_default": func.now()}
    )
    status: int | None = None
    headers: list[list[str]] | None = Field(default=None, sa_type=JSONB)
    body: bytes | None = None


STORED = select(IdempotencyKey).where(col(IdempotencyKey.digest) == bindparam("digest"))
EXPIRED = col(IdempotencyKey.created_at) < func.now() - bindparam("retention", type_=Interval)
TAKE = (
    insert(IdempotencyKey)
    .values(digest=bindparam("digest"), fingerprint=bindparam("fingerprint"))
    .on_conflict_do_update(
        index_elements=["digest"],
        set_={"fingerprint": bindparam("fingerprint"), "created_at": func.now()},
        where=EXPIRED,
    )
    .returning(col(IdempotencyKey.digest))
)
SWEEP = sweeping(IdempotencyKey, col(IdempotencyKey.digest), EXPIRED)
