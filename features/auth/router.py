from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import SecretStr

from features.auth.handlers.access import authenticate_token
from features.auth.handlers.issue import TokenIssuer, make_issuer
from features.auth.models import RefreshTokenInput, TokenPublic
from kernel import Reader, Router, Session, bearer_scheme, error_response, opened, resources_of


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    resources = resources_of(app)
    issuer = make_issuer(resources)
    resources.put(issuer)
    resources.put(issuer.signer)
    yield


router = Router(prefix="/auth", tags=["auth"], lifespan=_lifespan)
BEARER = bearer_scheme("create_token", authenticate_token)
Issuer = Annotated[TokenIssuer, Depends(opened(TokenIssuer))]


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
