import hashlib
import logging
import secrets
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, bindparam, delete, func, insert, or_, update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col, select

from features.keys.models import Key, KeyCreate, KeyCreated, KeyHolder, KeyPublic, sign_ins, users
from kernel import (
    NotFound,
    Page,
    Pager,
    Principal,
    ReadPool,
    Resources,
    Rows,
    ServiceError,
    Unauthorized,
    WriteSession,
    open_session,
    security_event,
)

MINUTE = timedelta(minutes=1)
used, expires = col(Key.last_used_at), col(Key.expires_at)
IS_STALE = or_(used.is_(None), used < func.now() - MINUTE)
OWN = select(Key).where(Key.user_id == bindparam("user_id"))
HOLDER: Select[*tuple[Any, ...]] = (
    select(users.c.id, users.c.role, col(Key.id).label("key_id"), IS_STALE.label("is_stale"))
    .join_from(Key, users, col(Key.user_id) == users.c.id)
    .where(
        Key.digest == bindparam("digest"),
        users.c.is_active,
        or_(expires.is_(None), expires > func.now()),
    )
)
NEW_COLUMNS = ("name", "expires_at", "prefix", "digest")
# With a lock on the sign-in: what ends it waits for this insert, or comes first and prevents it.
CREATE = (
    insert(Key)
    .from_select(
        ["user_id", *NEW_COLUMNS],
        select(
            sign_ins.c.user_id,
            *(bindparam(f"new_{name}", type_=getattr(Key, name).type) for name in NEW_COLUMNS),
        )
        .where(sign_ins.c.family == bindparam("sign_in"), sign_ins.c.user_id == bindparam("id"))
        .with_for_update(read=True, key_share=True),
    )
    .returning(Key)
)
# By the id alone, without the version, which changes with each use.
IS_OWN = (col(Key.id) == bindparam("id"), col(Key.user_id) == bindparam("user_id"))
DELETE = delete(Key).where(*IS_OWN).returning(col(Key.id))
TOUCH = (
    update(Key).where(col(Key.id) == bindparam("key_id"), IS_STALE).values(last_used_at=func.now())
)
logger = logging.getLogger(__name__)


async def list_keys(reader: ReadPool, me: Principal, pager: Pager) -> Page[KeyPublic]:
    return await pager.fetch(reader, KeyPublic, OWN, "-id", user_id=me.id)


async def create_key(
    session: WriteSession, me: Principal, data: KeyCreate, service: str
) -> KeyCreated:
    kind = f"{service[:3]}_"  # tells the finder of a leaked key which service it is for
    secret = kind + secrets.token_urlsafe(32)
    row = data.model_dump() | {"prefix": secret[: len(kind) + 8], "digest": _digest(secret)}
    values = {f"new_{name}": value for name, value in row.items()}
    key = await session.first(KeyPublic, CREATE, id=me.id, sign_in=me.sign_in, **values)
    if key is None:
        raise Unauthorized("sign in to do this")
    session.after_commit(security_event, "key_made", me.id)
    return KeyCreated(**key.model_dump(), key=secret)


async def delete_key(session: WriteSession, me: Principal, key_id: int) -> None:
    if not await session.fetch(DELETE, id=key_id, user_id=me.id):
        raise NotFound("key", key_id)
    session.after_commit(security_event, "key_deleted", me.id)


async def authenticate_key(_: Resources, rows: Rows, secret: str) -> Principal | None:
    """The principal of an API key, for the kernel; None if it is unknown or expired, or the account
    is not active."""
    holder = await rows.first(KeyHolder, HOLDER, digest=_digest(secret))
    if holder is None:
        return None
    if holder.is_stale:
        await _touch(holder.key_id)
    return Principal(holder.id, holder.role)


async def _touch(key_id: int) -> None:
    # At most once a minute, in a session of its own: a failed request has used the key as well, and
    # no request may fail because of this.
    try:
        async with open_session() as independent_session:
            await (await independent_session.connection()).execute(TOUCH, {"key_id": key_id})
    except (SQLAlchemyError, ServiceError, TimeoutError):
        logger.warning("could not note the use of a key", exc_info=True)


def _digest(secret: str) -> bytes:
    # Its 256 random bits need no slow hash.
    return hashlib.sha256(secret.encode(errors="replace")).digest()
