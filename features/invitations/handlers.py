import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from sqlalchemy import Select, bindparam, delete, func, insert, select
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
    security_event,
    task,
)

PURPOSE = "invitation"
LIFETIME = timedelta(days=7)
NOT_GOOD = "this invitation is not valid, or no longer valid: ask for another one"
digest, expires_at = col(Invitation.digest), col(Invitation.expires_at)
ALL: Select[tuple[Invitation]] = select(Invitation)
BY_ID = ALL.where(col(Invitation.id) == bindparam("id"))
ACCOUNT = select(users.c.id).where(users.c.email == bindparam("email"))
# Only of one who is still an active admin: an invitation ends with the rights of its admin.
INVITED = (
    select(col(Invitation.email), col(Invitation.role), digest)
    .join(users, users.c.id == col(Invitation.invited_by))
    .where(
        digest == bindparam("token"),
        expires_at > func.now(),
        users.c.is_active,
        users.c.role == "admin",
    )
)
LOCKED = INVITED.with_for_update(of=Invitation)
USE = delete(Invitation).where(digest == bindparam("token"), expires_at > func.now())
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
    await _send_later(session, invitation.id, seed)
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
    await _send_later(session, invitation_id, seed)
    return InvitationPublic.model_validate(invitation)


async def revoke(session: WriteSession, invitation_id: int) -> None:
    if not await session.fetch(REVOKE, id=invitation_id):
        raise NotFound("invitation", invitation_id)
    session.after_commit(security_event, "invitation_revoked", f"invitation {invitation_id}")


async def _send_later(session: WriteSession, invitation_id: int, seed: str) -> None:
    await session.enqueue(send_invitation, invitation_id=invitation_id, seed=seed)
    session.after_commit(security_event, "invited", f"invitation {invitation_id}")


@task(external=True, timeout=60, concurrency=4)
async def send_invitation(job: Job, resources: Resources, invitation_id: int, seed: str) -> None:
    """Send the link, unless a newer one has replaced it. It is the same in each attempt."""
    invited = await resources.primary.first(Invited, BY_ID, id=invitation_id)
    token = resources.derive_token(PURPOSE, seed)
    if invited is None or invited.digest != _digest(token):
        return
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
    # Read again under a lock: of two concurrent requests, the second finds no invitation.
    locked = await session.first(Invited, LOCKED, token=token)
    if locked is None:
        raise Forbidden(NOT_GOOD)
    await session.fetch(USE, token=token)
    chosen = {**data.model_dump(exclude={"token", "password"}), "password_hash": password_hash}
    account = chosen | {"email": locked.email, "role": locked.role, "is_active": True}
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
