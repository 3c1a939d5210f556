from functools import cache
from typing import Any, Literal, NamedTuple

from sqlalchemy import Select, String, bindparam, delete, func, or_
from sqlmodel import col, select

from features.users.models import (
    Account,
    MeUpdate,
    User,
    UserCreate,
    UserPublic,
    UserSummary,
    UserUpdate,
    keys,
    sign_ins,
)
from kernel import (
    Forbidden,
    NotFound,
    Page,
    Pager,
    PasswordVault,
    Principal,
    ReadPool,
    WriteSession,
    like,
)

Order = Literal["id", "-id", "full_name", "-full_name", "email", "-email"]
BY_ID = select(User).where(User.id == bindparam("id"))
END_OTHERS = delete(sign_ins).where(
    sign_ins.c.user_id == bindparam("id"), sign_ins.c.family != bindparam("own")
)
NOT_RIGHT = "the current password is not right"
END_KEYS = delete(keys).where(keys.c.user_id == bindparam("id"))


class NewPassword(NamedTuple):
    current_hash: str
    hash: str


@cache
def _listed(sees_all: bool, searched: bool, by_activity: bool) -> Select[*tuple[Any, ...]]:
    users = select(User)
    if searched:
        pattern = bindparam("pattern", type_=String)
        names = [User.full_name, User.email] if sees_all else [User.full_name]
        users = users.where(or_(*(col(name).ilike(pattern) for name in names)))
    return users.where(User.is_active == bindparam("is_active")) if by_activity else users


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


async def list_users(
    reader: ReadPool, pager: Pager, q: str | None, is_active: bool | None, order: Order
) -> Page[UserPublic]:
    users = _listed(True, q is not None, is_active is not None)
    pattern = {} if q is None else {"pattern": like(q)}
    activity = {} if is_active is None else {"is_active": is_active}
    return await pager.fetch(reader, UserPublic, users, order, **pattern, **activity)


async def list_summaries(
    reader: ReadPool, pager: Pager, q: str | None, is_active: bool | None, order: Order
) -> Page[UserSummary]:
    if is_active is not None or order.endswith("email"):
        raise Forbidden("is_active, and the order of addresses, are only for the role admin")
    pattern = {} if q is None else {"pattern": like(q)}
    users = _listed(False, q is not None, False)
    return await pager.fetch(reader, UserSummary, users, order, **pattern)


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
    new = await _new_password(primary, passwords, me, data)
    user = await _find(session, me.id)
    user.sqlmodel_update(data.model_dump(include={"full_name"}, exclude_unset=True))
    if new:
        await _change_password(session, me, user, new)
        if not data.keep_keys:
            await session.fetch(END_KEYS, id=me.id)
    await session.flush()
    return UserPublic.model_validate(user)


async def _new_password(
    primary: ReadPool, passwords: PasswordVault, me: Principal, data: MeUpdate
) -> NewPassword | None:
    """The hash of the new password, and the one of the current password that was given."""
    if "password" not in data.model_fields_set:
        return None
    if me.sign_in is None:
        raise Forbidden("only for a person who has signed in with a password")
    account = await primary.first(Account, BY_ID, id=me.id)
    if account is None:
        raise NotFound("user", me.id)
    current, current_hash = data.current_password, account.password_hash
    if not await passwords.check(account.email, me.id, current_hash, current):
        raise Forbidden(NOT_RIGHT)
    return NewPassword(current_hash, await passwords.hash(data.password))


async def _change_password(
    session: WriteSession, me: Principal, user: User, new: NewPassword
) -> None:
    if user.password_hash != new.current_hash:
        raise Forbidden(NOT_RIGHT)
    user.password_hash = new.hash
    user.password_changed_at = func.now()  # type: ignore[assignment]  # the database's clock
    # Behind the user's row, which a sign-in that is under way has to share: what began with the
    # old password is seen here, or is refused.
    await session.flush()
    await session.fetch(END_OTHERS, id=me.id, own=me.sign_in)


async def update_user(session: WriteSession, user_id: int, data: UserUpdate) -> UserPublic:
    user = await _find(session, user_id)
    user.sqlmodel_update(data.model_dump(exclude_unset=True))
    await session.flush()
    return UserPublic.model_validate(user)


async def delete_user(session: WriteSession, user_id: int) -> None:
    await session.delete(await _find(session, user_id))
    await session.flush()


async def _find(session: WriteSession, user_id: int) -> User:
    user = await session.get(User, user_id)
    if user is None:
        raise NotFound("user", user_id)
    return user
