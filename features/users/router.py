"""Accounts: people sign up, see one another by name, and change what is their own."""

from typing import Annotated

from fastapi import Depends, Query, Request

from features.users import handlers
from features.users.handlers import UserFilter
from features.users.models import MeUpdate, UserCreate, UserPublic, UserSummary, UserUpdate
from kernel import (
    Admin,
    CurrentUser,
    Id,
    Page,
    Paging,
    Passwords,
    Reader,
    Router,
    Service,
    Session,
    error_response,
    require,
)

router = Router(prefix="/users", tags=["users"])


async def _may_sign_up(request: Request, service: Service) -> None:
    if not service.settings.sign_up_is_open:
        await require("admin")(request)


@router.post(
    "",
    status_code=201,
    dependencies=[Depends(_may_sign_up)],
    responses={401: error_response(401), 403: error_response(403)},
)
async def create_user(data: UserCreate, passwords: Passwords, session: Session) -> UserPublic:
    """Sign up. Open in dev; elsewhere an admin's, unless `APP_SIGNUP_OPEN=true`."""
    return await handlers.create_user(session, passwords, data)


@router.get("", responses={403: error_response(403)})
async def list_users(
    me: CurrentUser, reader: Reader, paging: Paging, filters: Annotated[UserFilter, Query()]
) -> Page[UserPublic] | Page[UserSummary]:
    """Admins see, search and order by all; others by names, without `is_active`."""
    list_ = handlers.list_users if me.is_admin else handlers.list_summaries
    return await list_(reader, paging, filters)


@router.get("/me")
async def get_me(me: CurrentUser, reader: Reader) -> UserPublic:
    """One's own account."""
    return await handlers.get_me(reader, me)


@router.patch("/me", responses={status: error_response(status) for status in (403, 429)})
async def update_me(
    data: MeUpdate, me: CurrentUser, service: Service, passwords: Passwords, session: Session
) -> UserPublic:
    """Change one's own name or, by giving the current password too, one's address or password.

    A new password ends one's other sign-ins, and one's API keys unless `keep_keys` is true.
    """
    return await handlers.update_me(service.primary, session, passwords, me, data)


@router.get("/{user_id}")
async def get_user(user_id: Id, me: CurrentUser, reader: Reader) -> UserPublic | UserSummary:
    """All of an account for its owner and for admins; for others, whose it is."""
    return await handlers.get_user(reader, me, user_id)


@router.patch("/{user_id}")
async def update_user(user_id: Id, data: UserUpdate, me: Admin, session: Session) -> UserPublic:
    """Change an account. Its role is changed by a person, who has signed in; a deactivation ends
    all of its sign-ins."""
    return await handlers.update_user(session, me, user_id, data)


@router.delete("/{user_id}", status_code=204)
async def delete_user(user_id: Id, _: Admin, session: Session) -> None:
    """Delete an account. One that owns rows is a 409: delete these first, or deactivate it."""
    await handlers.delete_user(session, user_id)
