from typing import Any

from sqlalchemy import Select, Uuid, bindparam, delete, func
from sqlmodel import col, select

from features.auth.models import SignIn, SignInPublic
from kernel import NotFound, Page, Pager, Principal, ReadPool, WriteSession, security_event

expires_at, spent_at = col(SignIn.expires_at), col(SignIn.spent_at)
IS_CURRENT = col(SignIn.family) == bindparam("current", type_=Uuid)
OWN: Select[*tuple[Any, ...]] = select(SignIn, IS_CURRENT.label("is_current")).where(
    SignIn.user_id == bindparam("user_id"), spent_at.is_(None), expires_at > func.now()
)
# By the id alone, without the version: a thief who refreshes all the time could prevent the end.
IS_OWN = (col(SignIn.id) == bindparam("id"), col(SignIn.user_id) == bindparam("user_id"))
END_OWN = delete(SignIn).where(*IS_OWN).returning(col(SignIn.id))


async def list_sign_ins(primary: ReadPool, me: Principal, pager: Pager) -> Page[SignInPublic]:
    return await pager.fetch(primary, SignInPublic, OWN, "-id", user_id=me.id, current=me.sign_in)


async def end_sign_in(session: WriteSession, me: Principal, sign_in_id: int) -> None:
    if not await session.fetch(END_OWN, id=sign_in_id, user_id=me.id):
        raise NotFound("sign-in", sign_in_id)
    session.after_commit(security_event, "sign_in_ended", me.id)
