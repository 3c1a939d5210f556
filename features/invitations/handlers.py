import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from sqlalchemy import BindParameter, Select, bindparam, delete, func, insert, select, update
from sqlmodel import col

from features.invitations.models import (
    Acceptance,
    Invitation,
    InvitationCreate,
    InvitationMail,
    InvitationPublic,
    Invited,
    users,
)
from kernel import (
    Conflict,
    Forbidden,
    Job,
    NotFound,
    Page,
    Pager,
    PasswordVault,
    Principal,
    ReadPool,
    Resources,
    WriteSession,
    open_session,
    security_event,
    task,
)

PURPOSE = "invitation"
LIFETIME = timedelta(days=7)
NOT_GOOD = "this invitation is not valid, or no longer valid: ask for another one"
digest, expires_at = col(Invitation.digest), col(Invitation.expires_at)
TOKEN: BindParameter[bytes] = bindparam("token")
ALL: Select[tuple[Invitation]] = select(Invitation)
# Each link ends at a time of its own: by that, its job sees whether a newer one has replaced it.
IS_LATEST = (col(Invitation.id) == bindparam("invitation_id"), expires_at == bindparam("until"))
# If the signing secret was changed while the job waited, the link has another token.
SET_DIGEST = update(Invitation).where(*IS_LATEST, digest != TOKEN).values(digest=TOKEN)
ACCOUNT = select(users.c.id).where(users.c.email == bindparam("email"))
# Only of one who is still an active admin: an invitation ends with the rights of its admin.
IS_GOOD = (
    expires_at > func.now(),
    users.c.id == col(Invitation.invited_by),
    users.c.is_active,
    users.c.role == "admin",
)
LATEST = ALL.where(*IS_LATEST, *IS_GOOD)
INVITED = select(col(Invitation.email), col(Invitation.role)).where(digest == TOKEN, *IS_GOOD)
USE = delete(Invitation).where(digest == TOKEN, *IS_GOOD).returning(*INVITED.selected_columns)
REVOKE = delete(Invitation).where(col(Invitation.id) == bindparam("id")).returning(digest)


async def list_invitations(reader: ReadPool, pager: Pager) -> Page[InvitationPublic]:
    return await pager.fetch(reader, InvitationPublic, ALL, "-id")


async def invite(
    session: WriteSession, me: Principal, resources: Resources, data: InvitationCreate
) -> InvitationPublic:
    InvitationMail.require_server(resources)
    if await session.fetch(ACCOUNT, email=data.email):
        raise Conflict("there is an account of this e-mail address")
    seed, values = _new_link(resources)
    row = {**data.model_dump(), **values, "invited_by": me.id}
    invitation = await session.insert(Invitation, InvitationPublic, **row)
    await _send_later(session, invitation, seed)
    return invitation


async def renew(
    session: WriteSession, me: Principal, resources: Resources, invitation_id: int
) -> InvitationPublic:
    """Send another link; the one before is no longer good."""
    InvitationMail.require_server(resources)
    invitation = await session.get(Invitation, invitation_id, with_for_update=True)
    if invitation is None:
        raise NotFound("invitation", invitation_id)
    seed, values = _new_link(resources)
    invitation.sqlmodel_update({**values, "invited_by": me.id})
    await session.flush()
    renewed = InvitationPublic.model_validate(invitation)
    await _send_later(session, renewed, seed)
    return renewed


async def revoke(session: WriteSession, invitation_id: int) -> None:
    if not await session.fetch(REVOKE, id=invitation_id):
        raise NotFound("invitation", invitation_id)
    session.after_commit(security_event, "invitation_revoked", f"invitation {invitation_id}")


async def _send_later(session: WriteSession, link: InvitationPublic, seed: str) -> None:
    await session.enqueue(send_invitation, invitation_id=link.id, seed=seed, until=link.expires_at)
    session.after_commit(security_event, "invited", f"invitation {link.id}")


@task(external=True, timeout=60, concurrency=4)
async def send_invitation(
    job: Job, resources: Resources, invitation_id: int, seed: str, until: datetime
) -> None:
    """Send the link, unless a newer one has replaced it. It is the same in each attempt."""
    token = resources.derive_token(PURPOSE, seed)
    latest = {"invitation_id": invitation_id, "until": until}
    async with open_session() as session:
        await session.fetch(SET_DIGEST, **latest, token=_digest(token))
        invited = await session.first(Invited, LATEST, **latest)
    if invited:
        base, days = resources.settings.link_base, LIFETIME.days
        mail = InvitationMail(service=resources.name, base=base, token=token, days=days)
        await mail.send(job, resources, to=invited.email)


async def accept(
    primary: ReadPool, session: WriteSession, passwords: PasswordVault, data: Acceptance
) -> None:
    """Make the account.

    Raises:
        Forbidden: the token is unknown, used or expired, or its admin is no longer one.
    """
    token = _digest(data.token)
    invited = await primary.first(Invited, INVITED, token=token)
    if invited is None:
        raise Forbidden(NOT_GOOD)
    # Before the transaction begins: no connection is held while a password is hashed.
    password_hash = await passwords.hash(data.password, invited.email)
    # Looked up again as it is used: of two concurrent requests, the second finds no invitation.
    used = await session.first(Invited, USE, token=token)
    if used is None:
        raise Forbidden(NOT_GOOD)
    account = data.model_dump(exclude={"token", "password"}) | used.model_dump()
    account |= {"password_hash": password_hash, "is_active": True}
    [row] = await session.fetch(insert(users).values(account).returning(users.c.id))
    session.after_commit(security_event, "invitation_accepted", row["id"])


def _new_link(resources: Resources) -> tuple[str, dict[str, object]]:
    """The seed of a new token, and the columns that change with it."""
    seed = secrets.token_hex(32)
    token = resources.derive_token(PURPOSE, seed)
    return seed, {"digest": _digest(token), "expires_at": datetime.now(UTC) + LIFETIME}


def _digest(token: str) -> bytes:
    # Its 256 random bits need no slow hash.
    return hashlib.sha256(token.encode(errors="replace")).digest()
