import hashlib
import re
import time
from collections import OrderedDict
from uuid import UUID

import jwt
from sqlalchemy import bindparam, func, select
from sqlmodel import col

from features.auth.models import SignIn, users
from kernel import Principal, Resources, Rows

KIND = "at+jwt"  # RFC 9068 §2.1
CLAIMS = ["iss", "aud", "sub", "sid", "iat", "exp"]
LONGEST_LIFE = 86_400
LEEWAY = 30  # seconds by which the clocks of two instances may differ
CACHED = 10_000
USER_ID, HEX = re.compile("[1-9][0-9]{0,17}"), re.compile("[0-9a-f]{32}")
IS_LIVE = (col(SignIn.spent_at).is_(None), col(SignIn.expires_at) > func.now(), users.c.is_active)
CALLER = (
    select(users.c.id, users.c.role)
    .join_from(SignIn, users, col(SignIn.user_id) == users.c.id)
    .where(col(SignIn.family) == bindparam("sign_in"), users.c.id == bindparam("id"), *IS_LIVE)
)


class TokenSigner:
    """Makes and reads access tokens: JWT (RFC 7519), HS256, `lifetime` in seconds.

    The first secret signs. Tokens signed with another one are valid, so that a secret can be
    rotated. `iss` and `aud` are the service's name, and `sid` is the sign-in, with which the token
    ends.
    """

    def __init__(self, service: str, secrets: list[str], lifetime: int) -> None:
        self._service, self._secrets, self.lifetime = service, secrets, lifetime
        # Verifying costs 100 µs; a token that was verified stays valid until it expires.
        self._verified: OrderedDict[bytes, tuple[int, UUID, int]] = OrderedDict()

    def issue(self, user_id: int, sign_in: UUID) -> str:
        now = int(time.time())
        claims = {"iss": self._service, "aud": self._service, "sub": str(user_id)}
        times = {"sid": sign_in.hex, "iat": now, "exp": now + self.lifetime}
        return jwt.encode(claims | times, self._secrets[0], "HS256", headers={"typ": KIND})

    def read(self, token: str) -> tuple[int, UUID] | None:
        """The ids of user and sign-in, or None for a token that is not ours or has expired."""
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        verified = self._verified.get(digest) or self._verify(token)
        if verified is None or verified[2] <= time.time():
            self._verified.pop(digest, None)
            return None
        self._verified[digest] = verified
        if len(self._verified) > CACHED:
            self._verified.popitem(last=False)
        return verified[:2]

    def _verify(self, token: str) -> tuple[int, UUID, int] | None:
        for secret in self._secrets:
            try:
                decoded = jwt.decode_complete(
                    token,
                    secret,
                    algorithms=["HS256"],
                    issuer=self._service,
                    audience=self._service,
                    leeway=LEEWAY,  # for `iat`; `read` allows none for `exp`
                    options={"require": CLAIMS},
                )
            except (jwt.InvalidTokenError, RecursionError):
                continue
            return _parse(decoded["payload"]) if decoded["header"].get("typ") == KIND else None
        return None


def _parse(claims: dict[str, object]) -> tuple[int, UUID, int] | None:
    """User, sign-in and expiry (Unix time), or None if the service does not write such claims."""
    match claims:
        case {"sub": str(user_id), "sid": str(sid), "iat": int(start), "exp": int(end)}:
            is_ours = end - start <= LONGEST_LIFE and USER_ID.fullmatch(user_id)
            return (int(user_id), UUID(sid), end) if is_ours and HEX.fullmatch(sid) else None
    return None


async def authenticate_token(resources: Resources, rows: Rows, token: str) -> Principal | None:
    """The principal of a bearer token, for the kernel; None if the token is invalid, its sign-in
    has ended, or the account is not active."""
    ids = resources.get(TokenSigner).read(token)
    if ids is None:
        return None
    user_id, sign_in = ids
    callers = await rows.fetch(CALLER, sign_in=sign_in, id=user_id)
    return Principal(callers[0]["id"], callers[0]["role"], sign_in) if callers else None
