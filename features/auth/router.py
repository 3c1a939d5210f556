"""Signing in and out: short-lived access tokens, and refresh tokens for new ones."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import SecretStr

from features.auth.handlers import sign_ins
from features.auth.handlers.access import authenticate_token
from features.auth.handlers.issue import TokenIssuer, make_issuer
from features.auth.models import RefreshTokenInput, SignInPublic, TokenPublic
from kernel import (
    CredentialScheme,
    Id,
    Page,
    Paging,
    Person,
    Router,
    Service,
    Session,
    error_response,
    opened,
    resources_of,
)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    resources = resources_of(app)
    issuer = make_issuer(resources)
    resources.put(issuer)
    resources.put(issuer.signer)
    yield


router = Router(prefix="/auth", tags=["auth"], lifespan=_lifespan)
BEARER = CredentialScheme.bearer("create_token", authenticate_token)
Issuer = Annotated[TokenIssuer, Depends(opened(TokenIssuer))]


@router.post("/token", responses={status: error_response(status) for status in (401, 429)})
async def create_token(
    form: Annotated[OAuth2PasswordRequestForm, Depends()],
    issuer: Issuer,
    service: Service,
    session: Session,
) -> TokenPublic:
    """Sign in: `username` is the e-mail address (RFC 6749 §4.3)."""
    return await issuer.sign_in(service.primary, session, form.username, SecretStr(form.password))


@router.post("/refresh", responses={401: error_response(401)})
async def refresh_token(data: RefreshTokenInput, issuer: Issuer, session: Session) -> TokenPublic:
    """Exchange a refresh token, which ends with that, for new tokens.

    Within ten seconds it gives the same refresh token again, for an answer that was lost. Used
    later, it ends the sign-in.
    """
    return await issuer.refresh(session, data.refresh_token)


@router.post("/logout", status_code=204)
async def sign_out(data: RefreshTokenInput, issuer: Issuer, session: Session) -> None:
    """End a sign-in: its tokens are no longer good."""
    await issuer.sign_out(session, data.refresh_token)


@router.get("/sign-ins")
async def list_sign_ins(me: Person, service: Service, paging: Paging) -> Page[SignInPublic]:
    """One's own sign-ins, the latest first; `updated_at` is when each was last refreshed."""
    return await sign_ins.list_sign_ins(service.primary, me, paging)


@router.delete("/sign-ins/{sign_in_id}", status_code=204)
async def end_sign_in(sign_in_id: Id, me: Person, session: Session) -> None:
    """End one of one's own sign-ins: its tokens are no longer good."""
    await sign_ins.end_sign_in(session, me, sign_in_id)
