from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import SecretStr

from features.auth import handlers
from features.auth.handlers import TokenSigner
from features.auth.models import TokenPublic
from features.kernel.boundary import Router
from features.kernel.openapi import error_response
from features.kernel.passwords import Passwords
from features.kernel.reader import Reader

router = Router(prefix="/auth", tags=["auth"])


async def _signer(request: Request) -> TokenSigner:
    signer: TokenSigner = request.app.state.signer
    return signer


@router.post("/token", responses={401: error_response(401)})
async def create_token(
    form: Annotated[OAuth2PasswordRequestForm, Depends()],
    passwords: Passwords,
    signer: Annotated[TokenSigner, Depends(_signer)],
    reader: Reader,
) -> TokenPublic:
    """Sign in: `username` is the e-mail address (RFC 6749 §4.3)."""
    password = SecretStr(form.password)
    return await handlers.sign_in(reader, passwords, signer, form.username, password)
