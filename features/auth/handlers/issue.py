import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from pydantic import SecretStr
from sqlalchemy import bindparam, delete, func, select, update
from sqlmodel import col

from features.auth.handlers.access import ACTIVE, TokenSigner
from features.auth.handlers.throttle import Throttle
from features.auth.models import Account, RefreshToken, TokenPublic, users
from kernel import PasswordVault, Resources, Rows, Unauthorized, WriteSession, open_session

ACTIVE_BY_EMAIL = ACTIVE.where(users.c.email == bindparam("email"))
token_id = col(RefreshToken.id)
digest, family = col(RefreshToken.digest), col(RefreshToken.family)
spent_at, expires_at = col(RefreshToken.spent_at), col(RefreshToken.expires_at)
SPEND = (
    update(RefreshToken)
    .where(
        digest == bindparam("token"),
        spent_at.is_(None),
        expires_at > func.now(),
        select(users.c.id)
        .where(
            users.c.id == col(RefreshToken.user_id),
            users.c.is_active,
            # A change of the password ends every sign-in that was made with the old one.
            users.c.password_changed_at <= col(RefreshToken.created_at),
        )
        .exists(),
    )
    .values(spent_at=func.now())
    .returning(col(RefreshToken.user_id), family)
)
FAMILY = select(family).where(digest == bindparam("token"))
SWEEP = delete(RefreshToken).where(expires_at < func.now())
# Locked in one order, or those who revoke the same family at once would wait in a circle.
MEMBERS = select(token_id).where(family.in_(FAMILY)).order_by(token_id).with_for_update()
REVOKE = delete(RefreshToken).where(token_id.in_(MEMBERS))


@dataclass(frozen=True)
class TokenIssuer:
    """Gives out access tokens and refresh tokens, and takes them back."""

    signer: TokenSigner
    throttle: Throttle
    passwords: PasswordVault
    refresh_lifetime: timedelta

    async def sign_in(
        self, rows: Rows, session: WriteSession, email: str, password: SecretStr, address: str
    ) -> TokenPublic:
        """Exchange a password for tokens.

        Raises:
            Unauthorized: no such account, or not its password; nobody learns which.
            TooManyRequests: it failed too often of late.
        """
        email = email.strip().lower()
        await self.throttle.count(email, address)
        account = await rows.first(Account, ACTIVE_BY_EMAIL, email=email)
        # Without an account there is a hash to verify all the same, so that both take as long.
        matches = await self.passwords.verify(account.password_hash if account else None, password)
        if account is None or not matches:
            raise Unauthorized("wrong e-mail address or password")
        await self.throttle.forgive(session, email, address)
        if self.passwords.is_outdated(account.password_hash):
            await self._rehash(session, account.id, password)
        return await self._issue(session, account.id, uuid4())

    async def refresh(self, session: WriteSession, token: str) -> TokenPublic:
        """Exchange a refresh token for new tokens; it is spent with that.

        Raises:
            Unauthorized: it is unknown, expired, or spent. Who uses a spent one may be a thief,
                or the thief's victim, so all of its family end (RFC 9700 §4.14.2).
        """
        values = {"token": _digest(token)}
        connection = await session.connection()
        spent = (await connection.execute(SPEND, values)).first()
        if spent is None:
            # An UPDATE that waited for another one keeps its lock on the row, though it changed
            # nothing; the independent transaction would wait for it.
            await session.rollback()
            async with open_session() as independent_session:
                await (await independent_session.connection()).execute(REVOKE, values)
            raise Unauthorized("sign in again")
        return await self._issue(session, spent.user_id, spent.family)

    async def sign_out(self, session: WriteSession, token: str) -> None:
        """End the token's family; fine if it has ended already (RFC 7009 §2.2)."""
        await (await session.connection()).execute(REVOKE, {"token": _digest(token)})

    async def _issue(self, session: WriteSession, user_id: int, family: UUID) -> TokenPublic:
        secret = secrets.token_urlsafe(32)
        token = RefreshToken(
            user_id=user_id,
            family=family,
            digest=_digest(secret),
            expires_at=datetime.now(UTC) + self.refresh_lifetime,
        )
        session.add(token)
        # One token in 256 cleans up after all others, so that no scheduler has to.
        if token.digest[0] == 0:
            await (await session.connection()).execute(SWEEP)
        await session.flush()
        return TokenPublic(
            access_token=self.signer.issue(user_id),
            expires_in=self.signer.lifetime,
            refresh_token=secret,
        )

    async def _rehash(self, session: WriteSession, user_id: int, password: SecretStr) -> None:
        new = await self.passwords.hash(password)
        statement = update(users).where(users.c.id == user_id).values(password_hash=new)
        await (await session.connection()).execute(statement)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def make_issuer(resources: Resources) -> TokenIssuer:
    """The issuer that the settings describe."""
    settings, secret = resources.settings, resources.signing_secret
    old = settings.old_signing_secret
    secrets = [secret, old] if old else [secret]
    return TokenIssuer(
        signer=TokenSigner(resources.slug, secrets, settings.jwt_lifetime),
        throttle=Throttle(
            key=hashlib.sha256(b"throttle" + secret.encode()).digest(),
            most_failures=settings.sign_in_failures,
            window=timedelta(seconds=settings.sign_in_window),
        ),
        passwords=resources.get(PasswordVault),
        refresh_lifetime=timedelta(seconds=settings.refresh_lifetime),
    )
