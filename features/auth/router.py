from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import SecretStr

from features.auth.handlers.issue import TokenIssuer
from features.auth.models import RefreshTokenInput, TokenPublic
from kernel.data.reader import Reader
from kernel.data.session import Session
from kernel.http.openapi import error_response
from kernel.http.router import Router

router = Router(prefix="/auth", tags=["auth"])


async def _issuer(request: Request) -> TokenIssuer:
    issuer: TokenIssuer = request.app.state.issuer
    return issuer


Issuer = Annotated[TokenIssuer, Depends(_issuer)]


@router.post("/token", responses={status: error_response(status) for status in (401, 429)})
async def create_token(
    request: Request,
    form: Annotated[OAuth2PasswordRequestForm, Depends()],
    issuer: Issuer,
    reader: Reader,
    session: Session,
) -> TokenPublic:
    """Sign in: `username` is the e-mail address (RFC 6749 §4.3)."""
    address = request.client.host if request.client else ""
    password = SecretStr(form.password)
    return await issuer.sign_in(reader, session, form.username, password, address)


@router.post("/refresh", responses={401: error_response(401)})
async def refresh_token(data: RefreshTokenInput, issuer: Issuer, session: Session) -> TokenPublic:
    """Exchange a refresh token, which is spent with that, for new tokens."""
    return await issuer.refresh(session, data.refresh_token)


@router.post("/logout", status_code=204)
async def sign_out(data: RefreshTokenInput, issuer: Issuer, session: Session) -> None:
    """End a sign-in: its refresh tokens are no longer good."""
    await issuer.sign_out(session, data.refresh_token)
