"""Invitations, by which people join where nobody signs up by themselves."""

from features.invitations import handlers
from features.invitations.models import Acceptance, InvitationCreate, InvitationPublic
from kernel import (
    Admin,
    Id,
    Page,
    Paging,
    Passwords,
    Person,
    Reader,
    Router,
    Service,
    Session,
    error_response,
)

router = Router(prefix="/invitations", tags=["invitations"])
NO_MAIL = {501: error_response(501)}


@router.post("", status_code=201, responses=NO_MAIL)
async def create_invitation(
    data: InvitationCreate, me: Admin, _: Person, service: Service, session: Session
) -> InvitationPublic:
    """Invite somebody by mail, with the role that the account will have, for a week.

    Only a person can, who has signed in: what an API key makes must not outlive it.
    """
    return await handlers.invite(session, me, service, data)


@router.get("")
async def list_invitations(_: Admin, reader: Reader, paging: Paging) -> Page[InvitationPublic]:
    """Those that nobody has accepted yet, the latest first, and those that have expired."""
    return await handlers.list_invitations(reader, paging)


@router.post("/acceptance", status_code=204, responses={403: error_response(403)})
async def accept_invitation(
    data: Acceptance, passwords: Passwords, service: Service, session: Session
) -> None:
    """Make one's account, with the token that the link has behind its `#`; then sign in."""
    await handlers.accept(service.primary, session, passwords, data)


@router.post("/{invitation_id}/renewal", responses=NO_MAIL)
async def renew_invitation(
    invitation_id: Id, me: Admin, _: Person, service: Service, session: Session
) -> InvitationPublic:
    """Send another link, which is good for a week. The one before is no longer good."""
    return await handlers.renew(session, me, service, invitation_id)


@router.delete("/{invitation_id}", status_code=204)
async def revoke_invitation(invitation_id: Id, _: Admin, session: Session) -> None:
    """Revoke an invitation: its link is no longer good."""
    await handlers.revoke(session, invitation_id)
