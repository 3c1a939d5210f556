import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from pydantic import SecretStr, TypeAdapter, ValidationError
from sqlalchemy import Interval, LargeBinary, bindparam, delete, func, literal, select, update
from sqlmodel import col

from features.auth.handlers.access import HEX, IS_LIVE, TokenSigner
from features.auth.models import Account, SignIn, TokenPublic, users
from kernel import (
    Email,
    PasswordVault,
    Public,
    Resources,
    Rows,
    Unauthorized,
    WriteSession,
    open_session,
    security_event,
    task,
)

# A token may be used twice within this time: a response may be lost, or two tabs refresh at once.
GRACE = timedelta(seconds=10)
ACCOUNT = select(users.c.id, users.c.password_hash).where(
    users.c.email == bindparam("email"), users.c.is_active
)
ADDRESS = TypeAdapter[str](Email)
family, digest, expires_at = col(SignIn.family), col(SignIn.digest), col(SignIn.expires_at)
IS_ITS_USER = users.c.id == col(SignIn.user_id)
# The user's row with the hash that was verified, locked until the commit: a change of the password
# comes either before, and there is no sign-in, or after it, and ends it.
IS_AS_VERIFIED = (
    users.c.id == bindparam("user_id"),
    users.c.password_hash == bindparam("known_hash"),
)
VERIFIED = select(users.c.id).where(*IS_AS_VERIFIED, users.c.is_active).with_for_update(read=True)
REHASH = update(users).where(*IS_AS_VERIFIED).values(password_hash=bindparam("new_hash"))
REFRESH = (
    update(SignIn)
    .where(digest == bindparam("token"), IS_ITS_USER, *IS_LIVE)
    .values(
        previous_digest=digest,
        digest=bindparam("new_token", type_=LargeBinary),
        salt=bindparam("new_salt", type_=LargeBinary),
    )
    .returning(users.c.id)
)
IS_RECENT = col(SignIn.updated_at) > func.now() - literal(GRACE, Interval)
STATE = (
    select(users.c.id, col(SignIn.previous_digest), col(SignIn.salt), IS_RECENT.label("is_recent"))
    .join_from(SignIn, users, IS_ITS_USER)
    .where(family == bindparam("sid"), *IS_LIVE)
)
# For tokens of an earlier version, which do not name their sign-in.
OLD_FAMILY = select(family).where(digest == bindparam("token"))
END = delete(SignIn).where(family == bindparam("sid")).returning(col(SignIn.user_id))
EXPIRED = select(col(SignIn.id)).where(expires_at < func.now()).limit(1000)
# As a subquery it could be run for each row of the table, and find a thousand others each time.
SWEPT = EXPIRED.with_for_update(skip_locked=True).cte("swept")
SWEEP = delete(SignIn).where(col(SignIn.id).in_(select(SWEPT)))


@dataclass(frozen=True)
class TokenIssuer:
    """Begins sign-ins, issues their tokens, and ends them. `lifetime` is that of a sign-in."""

    signer: TokenSigner
    passwords: PasswordVault
    lifetime: timedelta

    async def sign_in(
        self, rows: Rows, session: WriteSession, email: str, password: SecretStr
    ) -> TokenPublic:
        """Exchange a password for tokens.

        Raises:
            Unauthorized: no such account, or not its password; nobody learns which.
            TooManyRequests: too many sign-ins have failed within the last minutes.
        """
        email = _normal(email)
        # Tried again once, if the hash that was verified has been replaced meanwhile.
        for _ in range(2):
            account = await rows.first(Account, ACCOUNT, email=email)
            # Without an account, `check` verifies a dummy hash: both cases take the same time.
            user_id, known_hash = (account.id, account.password_hash) if account else (None, None)
            is_right = await self.passwords.check(email, user_id, known_hash, password)
            if account is None or not is_right:
                break
            if tokens := await self._begin(session, account):
                if self.passwords.is_outdated(account.password_hash):
                    session.after_commit(self._rehash, account, password)
                return tokens
        raise Unauthorized("wrong e-mail address or password")

    async def refresh(self, session: WriteSession, token: str) -> TokenPublic:
        """Exchange a refresh token for new tokens. The old one is spent.

        Within GRACE, a spent token gives the same new refresh token again.

        Raises:
            Unauthorized: it is unknown, expired, or was spent before. Then its user may be a thief
                or the thief's victim, so the sign-in ends (RFC 9700 §4.14.2).
        """
        sid = await _family_of(session, token)
        if sid is None:
            raise Unauthorized("sign in again")
        salt = secrets.token_bytes(32)
        new = _successor(sid, token, salt)
        values = {"token": _digest(token), "new_token": _digest(new), "new_salt": salt}
        if refreshed := await session.fetch(REFRESH, **values):
            return self._tokens(refreshed[0]["id"], sid, new)
        state = await session.fetch(STATE, sid=sid)
        if state and state[0]["is_recent"] and state[0]["previous_digest"] == _digest(token):
            return self._tokens(state[0]["id"], sid, _successor(sid, token, state[0]["salt"]))
        if state:
            # An UPDATE that waited for another one keeps its lock on the row, though it changed
            # nothing; the independent session would wait for that lock.
            await session.rollback()
            async with open_session() as independent_session:
                ended = await independent_session.fetch(END, sid=sid)
            if ended:  # by this request, of several at once
                security_event("refresh_token_reused", ended[0]["user_id"])
        raise Unauthorized("sign in again")

    async def sign_out(self, session: WriteSession, token: str) -> None:
        """End the sign-in. No error if it has ended already (RFC 7009 §2.2)."""
        sid = await _family_of(session, token)
        if ended := await session.fetch(END, sid=sid) if sid else ():
            session.after_commit(security_event, "sign_in_ended", ended[0]["user_id"])

    async def _begin(self, session: WriteSession, account: Account) -> TokenPublic | None:
        """The tokens of a new sign-in, or None if the account's password has changed meanwhile."""
        sid = uuid4()
        token = f"{sid.hex}.{secrets.token_urlsafe(32)}"
        if not await session.fetch(VERIFIED, user_id=account.id, known_hash=account.password_hash):
            return None
        row = {"user_id": account.id, "family": sid, "digest": _digest(token)}
        await session.insert(SignIn, Public, **row, expires_at=datetime.now(UTC) + self.lifetime)
        session.after_commit(security_event, "signed_in", account.id)
        # One sign-in in 256 deletes expired ones, for services that run no jobs.
        if sid.bytes[0] == 0:
            await session.fetch(SWEEP)
        return self._tokens(account.id, sid, token)

    def _tokens(self, user_id: int, sid: UUID, token: str) -> TokenPublic:
        access, seconds = self.signer.issue(user_id, sid), self.signer.lifetime
        return TokenPublic(access_token=access, expires_in=seconds, refresh_token=token)

    async def _rehash(self, account: Account, password: SecretStr) -> None:
        new = await self.passwords.hash(password)
        values = {"user_id": account.id, "known_hash": account.password_hash, "new_hash": new}
        async with open_session() as session:
            await session.fetch(REHASH, **values)


@task(every="10m")
async def sweep_sign_ins(session: WriteSession) -> None:
    """Delete up to 1,000 expired sign-ins."""
    await session.fetch(SWEEP)


def _normal(email: str) -> str:
    try:
        return ADDRESS.validate_python(email)
    except ValidationError:
        return email.lower()[:100]  # of no account, but the failure counts


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _successor(sid: UUID, token: str, salt: bytes) -> str:
    """The next refresh token, derived from the one before, so that it can be sent again."""
    secret = hmac.digest(salt, token.encode(), "sha256")
    return f"{sid.hex}.{urlsafe_b64encode(secret).decode().rstrip('=')}"


async def _family_of(session: WriteSession, token: str) -> UUID | None:
    name, dot, _ = token.partition(".")
    if dot:
        return UUID(name) if HEX.fullmatch(name) else None
    rows = await session.fetch(OLD_FAMILY, token=_digest(token))
    return rows[0]["family"] if rows else None


def make_issuer(resources: Resources) -> TokenIssuer:
    """The issuer with the lifetimes and secrets of the settings."""
    settings = resources.settings
    secrets = list(filter(None, (resources.signing_secret, settings.old_signing_secret)))
    signer = TokenSigner(resources.slug, secrets, settings.jwt_lifetime)
    lifetime = timedelta(seconds=settings.refresh_lifetime)
    return TokenIssuer(signer, resources.get(PasswordVault), lifetime)
