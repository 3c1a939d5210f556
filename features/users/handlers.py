from functools import cache
from typing import Any, Literal

from sqlalchemy import Select, String, and_, bindparam, delete, func, or_
from sqlmodel import Field, col, select

from features.users.models import (
    NOT_THE_EMAIL,
    Account,
    MeUpdate,
    User,
    UserCreate,
    UserPublic,
    UserSummary,
    UserUpdate,
    is_email,
    keys,
    sign_ins,
)
from kernel import (
    Conflict,
    Filter,
    Forbidden,
    NotFound,
    Page,
    Pager,
    PasswordVault,
    Principal,
    ReadPool,
    Text,
    Unprocessable,
    WriteSession,
    like,
    security_event,
)

BY_ID = select(User).where(User.id == bindparam("id"))
END_SIGN_INS = delete(sign_ins).where(sign_ins.c.user_id == bindparam("id"))
END_OTHERS = END_SIGN_INS.where(sign_ins.c.family != bindparam("own"))
IS_ADMIN = and_(col(User.role) == "admin", col(User.is_active))
WITH_ADMINS = (
    select(User)
    .where(or_(col(User.id) == bindparam("id"), IS_ADMIN))
    .order_by(col(User.id))
    .with_for_update(key_share=True)
)
EVENTS = {"role": "role_changed", "is_active": "activity_changed"}
NOT_RIGHT = "the current password is not right"
END_KEYS = delete(keys).where(keys.c.user_id == bindparam("id"))


class UserFilter(Filter):
    is_active: bool | None = None
    q: Text | None = Field(
        default=None, max_length=100, description="What names contain; for admins, addresses, too."
    )
    order: Literal["id", "-id", "full_name", "-full_name", "email", "-email"] = "id"


@cache
def _listed(sees_all: bool, searched: bool) -> Select[*tuple[Any, ...]]:
    users = select(User)
    if not searched:
        return users
    pattern = bindparam("pattern", type_=String)
    names = [User.full_name, User.email] if sees_all else [User.full_name]
    return users.where(or_(*(col(name).ilike(pattern) for name in names)))


async def get_me(reader: ReadPool, me: Principal) -> UserPublic:
    user = await reader.first(UserPublic, BY_ID, id=me.id)
    if user is None:
        raise NotFound("user", me.id)
    return user


async def get_user(reader: ReadPool, me: Principal, user_id: int) -> UserPublic | UserSummary:
    kind: type[UserPublic | UserSummary] = UserSummary
    if me.is_admin or me.id == user_id:
        kind = UserPublic
    user = await reader.first(kind, BY_ID, id=user_id)
    if user is None:
        raise NotFound("user", user_id)
    return user


async def list_users(reader: ReadPool, pager: Pager, filters: UserFilter) -> Page[UserPublic]:
    users = filters.apply(_listed(True, filters.q is not None))
    values = {**_pattern(filters), **filters.values()}
    return await pager.fetch(reader, UserPublic, users, filters.order, **values)


async def list_summaries(reader: ReadPool, pager: Pager, filters: UserFilter) -> Page[UserSummary]:
    if filters.is_active is not None or filters.order.endswith("email"):
        raise Forbidden("is_active, and order by email, are only for the role admin")
    users = _listed(False, filters.q is not None)
    return await pager.fetch(reader, UserSummary, users, filters.order, **_pattern(filters))


def _pattern(filters: UserFilter) -> dict[str, str | None]:
    return {} if filters.q is None else {"pattern": like(filters.q)}


async def create_user(
    session: WriteSession, passwords: PasswordVault, data: UserCreate
) -> UserPublic:
    password_hash = await passwords.hash(data.password)
    values = data.model_dump(exclude={"password"})
    return await session.insert(User, UserPublic, **values, password_hash=password_hash)


async def update_me(
    primary: ReadPool,
    session: WriteSession,
    passwords: PasswordVault,
    me: Principal,
    data: MeUpdate,
) -> UserPublic:
    # Before the transaction begins: no connection is held while a password is hashed.
    account = await _verified(primary, passwords, me, data)
    new_hash = await passwords.hash(data.password) if "password" in data.model_fields_set else None
    user = await _find(session, me.id)
    if account and user.password_hash != account.password_hash:
        raise Forbidden(NOT_RIGHT)
    user.sqlmodel_update(data.model_dump(include={"full_name", "email"}, exclude_unset=True))
    if "email" in data.model_fields_set:
        session.after_commit(security_event, "email_changed", me.id)
    if new_hash:
        await _change_password(session, me, user, new_hash)
        if not data.keep_keys:
            await session.fetch(END_KEYS, id=me.id)
    await session.flush()
    return UserPublic.model_validate(user)


async def _verified(
    primary: ReadPool, passwords: PasswordVault, me: Principal, data: MeUpdate
) -> Account | None:
    """The account, if the request has its current password, or None if it has none.

    Raises:
        Forbidden: the caller has signed in with an API key, or the password is wrong.
        TooManyRequests: too many passwords were wrong.
        Unprocessable: the new password is the e-mail address.
    """
    if "current_password" not in data.model_fields_set:
        return None
    _require_person(me)
    account = await primary.first(Account, BY_ID, id=me.id)
    if account is None:
        raise NotFound("user", me.id)
    current, current_hash = data.current_password, account.password_hash
    if not await passwords.check(account.email, me.id, current_hash, current):
        raise Forbidden(NOT_RIGHT)
    if "password" in data.model_fields_set and is_email(data.password, account.email):
        raise Unprocessable(NOT_THE_EMAIL)
    return account


async def _change_password(session: WriteSession, me: Principal, user: User, new_hash: str) -> None:
    user.password_hash = new_hash
    user.password_changed_at = func.now()  # type: ignore[assignment]  # the database's clock
    # After the user's row is locked, which a concurrent sign-in has to share: one with the old
    # password is either seen here, or refused.
    await session.flush()
    await session.fetch(END_OTHERS, id=me.id, own=me.sign_in)
    session.after_commit(security_event, "password_changed", me.id)


async def update_user(
    session: WriteSession, me: Principal, user_id: int, data: UserUpdate
) -> UserPublic:
    changes = data.model_dump(exclude_unset=True)
    if "role" in changes:
        _require_person(me)  # or an API key could make an admin, who would outlive it
    ends = changes.get("role", "admin") != "admin" or not changes.get("is_active", True)
    user = await (_find_to_end if ends else _find)(session, user_id)
    user.sqlmodel_update(changes)
    await session.flush()
    if not user.is_active:
        # After the user's row is locked, as above. A reactivated user has to sign in again.
        await session.fetch(END_SIGN_INS, id=user_id)
    for name in changes.keys() & EVENTS.keys():
        session.after_commit(security_event, EVENTS[name], user_id)
    return UserPublic.model_validate(user)


async def delete_user(session: WriteSession, user_id: int) -> None:
    user = await _find_to_end(session, user_id)
    # First: a request that makes a key locks its sign-in and then the user's row, in this order.
    await session.fetch(END_SIGN_INS, id=user_id)
    await session.delete(user)
    await session.flush()
    session.after_commit(security_event, "user_deleted", user_id)


def _require_person(me: Principal) -> None:
    if me.sign_in is None:
        raise Forbidden("only for a person who has signed in with a password")


async def _find_to_end(session: WriteSession, user_id: int) -> User:
    """The user, locked with all active admins: of two who remove each other, one has to wait.

    Raises:
        NotFound: there is no such user.
        Conflict: the user is the last active admin.
    """
    locked = {user.id: user for user in await session.exec(WITH_ADMINS, params={"id": user_id})}
    if user_id not in locked:
        raise NotFound("user", user_id)
    user = locked[user_id]
    if len(locked) == 1 and user.role == "admin" and user.is_active:
        raise Conflict("the last active admin has to stay an active admin")
    return user


async def _find(session: WriteSession, user_id: int) -> User:
    """The user, locked. Without the lock, somebody with a stolen token could change the name all
    the time, so that each change of the password, and each deactivation, finds another version."""
    user = await session.get(User, user_id, with_for_update={"key_share": True})
    if user is None:
        raise NotFound("user", user_id)
    return user
