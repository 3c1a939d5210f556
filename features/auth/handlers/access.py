import hashlib
import re
import time
from collections import OrderedDict

import jwt
from sqlalchemy import bindparam, select

from features.auth.models import users
from kernel import Principal, Resources, Rows

KIND = "at+jwt"  # RFC 9068 §2.1
CLAIMS = ["iss", "aud", "sub", "iat", "exp"]
LONGEST_LIFE = 86_400
CACHED = 10_000
USER_ID = re.compile("[1-9][0-9]{0,17}")
ACTIVE = select(users.c.id, users.c.password_hash, users.c.role).where(users.c.is_active)
ACTIVE_BY_ID = ACTIVE.where(users.c.id == bindparam("id"))


class TokenSigner:
    """Makes and reads access tokens: JWT (RFC 7519), HS256, `lifetime` in seconds.

    The first secret signs; tokens of the others are still good, so that a secret can be replaced.
    The service is issuer and audience, by its name.
    """

    def __init__(self, service: str, secrets: list[str], lifetime: int) -> None:
        self._service, self._secrets = service, secrets
        self.lifetime = lifetime
        # Verifying costs 100 µs; a token that was good stays so until it expires.
        self._verified: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def issue(self, user_id: int) -> str:
        now = int(time.time())
        claims = {"iss": self._service, "aud": self._service, "sub": str(user_id)}
        times = {"iat": now, "exp": now + self.lifetime}
        return jwt.encode(claims | times, self._secrets[0], "HS256", headers={"typ": KIND})

    def read(self, token: str) -> int | None:
        """The user's id, or None for a token that is not ours or no longer good."""
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        user_id, expires = self._verified.get(digest) or self._verify(token)
        if expires <= time.time():
            self._verified.pop(digest, None)
            return None
        self._verified[digest] = user_id, expires
        if len(self._verified) > CACHED:
            self._verified.popitem(last=False)
        return user_id

    def _verify(self, token: str) -> tuple[int, int]:
        for secret in self._secrets:
            try:
                decoded = jwt.decode_complete(
                    token,
                    secret,
                    algorithms=["HS256"],
                    issuer=self._service,
                    audience=self._service,
                    options={"require": CLAIMS},
                )
            except (jwt.InvalidTokenError, RecursionError):
                continue
            claims = decoded["payload"]
            is_access_token = decoded["header"].get("typ") == KIND
            lives_short = claims["exp"] - claims["iat"] <= LONGEST_LIFE
            if is_access_token and lives_short and USER_ID.fullmatch(claims["sub"]):
                return int(claims["sub"]), int(claims["exp"])
        return 0, 0


async def authenticate_token(resources: Resources, rows: Rows, token: str) -> Principal | None:
    """The kernel's way from a bearer token to its principal."""
    user_id = resources.get(TokenSigner).read(token)
    found = await rows.fetch(ACTIVE_BY_ID, id=user_id) if user_id else []
    return Principal(found[0]["id"], found[0]["role"]) if found else None
