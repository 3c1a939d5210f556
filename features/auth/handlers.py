import re
import time
from dataclasses import dataclass, field

import jwt
from pydantic import SecretStr
from sqlalchemy import bindparam, select

from features.auth.models import Account, TokenPublic, users
from features.kernel.errors import Unauthorized
from features.kernel.identity import Authenticator, Principal
from features.kernel.passwords import PasswordVault
from features.kernel.reader import Rows

ISSUER = AUDIENCE = "julienne"
CLAIMS = ["iss", "aud", "sub", "iat", "exp"]
USER_ID = re.compile("[1-9][0-9]{0,17}")
ACTIVE = select(users.c.id, users.c.password_hash, users.c.role).where(users.c.is_active)
BY_ID = ACTIVE.where(users.c.id == bindparam("id"))
BY_EMAIL = ACTIVE.where(users.c.email == bindparam("email"))


@dataclass(frozen=True)
class TokenSigner:
    """Makes and reads access tokens: JWT (RFC 7519) with HS256, `lifetime` in seconds."""

    secret: str = field(repr=False)
    lifetime: int

    def issue(self, user_id: int) -> TokenPublic:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user_id),
            "iat": now,
            "exp": now + self.lifetime,
        }
        token = jwt.encode(claims, self.secret, algorithm="HS256")
        return TokenPublic(access_token=token, expires_in=self.lifetime)

    def read(self, token: str) -> int | None:
        """The user's id, or None for a token that is not ours or no longer valid."""
        try:
            claims = jwt.decode(
                token,
                self.secret,
                algorithms=["HS256"],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={"require": CLAIMS},
            )
        except (jwt.InvalidTokenError, RecursionError):
            return None
        return int(claims["sub"]) if USER_ID.fullmatch(claims["sub"]) else None


def make_authenticator(signer: TokenSigner) -> Authenticator:
    """The kernel's way to the caller of a request."""

    async def authenticate(rows: Rows, token: str) -> Principal | None:
        user_id = signer.read(token)
        account = user_id and await rows.first(Account, BY_ID, id=user_id)
        return Principal(account.id, account.role) if account else None

    return authenticate


async def sign_in(
    rows: Rows, passwords: PasswordVault, signer: TokenSigner, email: str, password: SecretStr
) -> TokenPublic:
    account = await rows.first(Account, BY_EMAIL, email=email.strip().lower())
    # An unknown address costs a hash too, so that the time does not tell which ones exist.
    matches = await passwords.verify(account.password_hash if account else None, password)
    if account is None or not matches:
        raise Unauthorized("wrong e-mail address or password")
    return signer.issue(account.id)
