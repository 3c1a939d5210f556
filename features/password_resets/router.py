"""Passwords that were forgotten: a link is sent by mail, with which its owner chooses a new one."""

from features.password_resets import handlers
from features.password_resets.models import PasswordResetCompletion, PasswordResetCreate
from kernel import Passwords, Router, Service, Session, error_response

router = Router(prefix="/password-resets", tags=["password-resets"])


@router.post(
    "", status_code=204, responses={status: error_response(status) for status in (429, 501)}
)
async def create_password_reset(
    data: PasswordResetCreate, passwords: Passwords, service: Service, session: Session
) -> None:
    """Ask for a link, which is good for half an hour, once, and until one asks again.

    The answer is the same whether there is an account of this address or not.
    """
    await handlers.ask(session, passwords, service, data.email)


@router.post("/completion", status_code=204, responses={403: error_response(403)})
async def complete_password_reset(
    data: PasswordResetCompletion, passwords: Passwords, service: Service, session: Session
) -> None:
    """Choose a new password, with the token that the link has behind its `#`.

    It ends all sign-ins and API keys of the account: sign in with the new one.
    """
    await handlers.complete(service.primary, session, passwords, data)
