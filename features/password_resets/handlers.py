import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta

from sqlalchemy import and_, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from features.password_resets.models import (
    Account,
    BoundAccount,
    PasswordReset,
    PasswordResetCompletion,
    ResetMail,
    keys,
    sign_ins,
    users,
)
from kernel import (
    Forbidden,
    Job,
    PasswordVault,
    ReadPool,
    Resources,
    WriteSession,
    open_session,
    security_event,
    task,
)

PURPOSE = "password_reset"
LIFETIME = timedelta(minutes=30)
NOT_GOOD = "this link is not valid, or no longer valid: ask for another one"
digest, expires_at = col(PasswordReset.digest), col(PasswordReset.expires_at)
ACCOUNT = select(users.c.id, users.c.email, users.c.role, users.c.password_hash).where(
    users.c.email == bindparam("email"), users.c.is_active
)
NEW = insert(PasswordReset).values(
    {name: bindparam(name) for name in ("user_id", "digest", "bound_to", "expires_at")}
)
# Only the latest link is valid: a late job of an older one changes nothing. Nor does a job
# that runs twice: a token that was used, or that a change of the account ended, would work again.
UPSERT = NEW.on_conflict_do_update(
    index_elements=["user_id"],
    set_={name: NEW.excluded[name] for name in ("digest", "bound_to", "expires_at")},
    where=and_(digest != NEW.excluded.digest, expires_at <= NEW.excluded.expires_at),
)
IS_LATEST = (digest == bindparam("token"), expires_at > func.now())
LATEST = select(col(PasswordReset.bound_to)).where(*IS_LATEST)
BOUND = (
    select(*ACCOUNT.selected_columns, col(PasswordReset.bound_to))
    .join_from(PasswordReset, users, col(PasswordReset.user_id) == users.c.id)
    .where(*IS_LATEST, users.c.is_active)
)
# Only if the account is as it was when the token was checked. So a token is valid once: a new
# password changes the account.
CHANGE = (
    update(users)
    .where(
        users.c.id == bindparam("user_id"),
        users.c.email == bindparam("known_email"),
        users.c.role == bindparam("known_role"),
        users.c.password_hash == bindparam("known_hash"),
        users.c.is_active,
    )
    .values(
        password_hash=bindparam("new_hash"), password_changed_at=func.now(), updated_at=func.now()
    )
    .returning(users.c.id)
)
END_SIGN_INS = delete(sign_ins).where(sign_ins.c.user_id == bindparam("id"))
END_KEYS = delete(keys).where(keys.c.user_id == bindparam("id"))
SWEEP = delete(PasswordReset).where(expires_at < func.now())


async def ask(
    session: WriteSession, passwords: PasswordVault, resources: Resources, email: str
) -> None:
    """Enqueue the mail. The job looks up whether there is such an account, so that neither the
    answer nor its time shows it.

    Raises:
        NoMailServer: none is configured, outside dev.
        TooManyRequests: it was asked too often for this address.
    """
    ResetMail.require_server(resources)
    await passwords.throttle(PURPOSE, email)
    until = datetime.now(UTC) + LIFETIME
    await session.enqueue(send_reset, email=email, seed=secrets.token_hex(32), until=until)


@task(external=True, timeout=60, concurrency=4)
async def send_reset(
    job: Job, resources: Resources, email: str, seed: str, until: datetime
) -> None:
    """Send the link. It is the same in each attempt."""
    account = await resources.primary.first(Account, ACCOUNT, email=email)
    if account is None or until <= datetime.now(UTC):
        return
    token = resources.derive_token(PURPOSE, seed)
    token_digest, bound_to = _digest(token), _binding(account)
    async with open_session() as session:
        await session.fetch(
            UPSERT, user_id=account.id, digest=token_digest, bound_to=bound_to, expires_at=until
        )
        latest = await session.fetch(LATEST, token=token_digest)
        if not latest or latest[0]["bound_to"] != bound_to:
            return
        session.after_commit(security_event, "password_reset_asked", account.id)
    minutes = LIFETIME // timedelta(minutes=1)
    mail = ResetMail(base=resources.settings.link_base, token=token, minutes=minutes)
    await mail.send(job, resources, to=account.email)


async def complete(
    primary: ReadPool,
    session: WriteSession,
    passwords: PasswordVault,
    data: PasswordResetCompletion,
) -> None:
    """Change the password, and end all sign-ins and API keys of the account.

    Raises:
        Forbidden: the token is unknown, used or expired, or the account has changed since.
    """
    token = _digest(data.token)
    account = await primary.first(BoundAccount, BOUND, token=token)
    if account is None or not hmac.compare_digest(account.bound_to, _binding(account)):
        raise Forbidden(NOT_GOOD)
    # Before the transaction begins: no connection is held while a password is hashed.
    new_hash = await passwords.hash(data.password, account.email)
    values = {"known_email": account.email, "known_role": account.role}
    values |= {"known_hash": account.password_hash, "new_hash": new_hash}
    if not await session.fetch(CHANGE, user_id=account.id, **values):
        raise Forbidden(NOT_GOOD)
    # After the user's row is locked: a concurrent sign-in needs a share of that lock.
    await session.fetch(END_SIGN_INS, id=account.id)
    await session.fetch(END_KEYS, id=account.id)
    session.after_commit(security_event, "password_reset", account.id)


@task(every="1h")
async def sweep_resets(session: WriteSession) -> None:
    """Delete expired links."""
    await session.fetch(SWEEP)


def _digest(token: str) -> bytes:
    # Its 256 random bits need no slow hash.
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _binding(account: Account) -> bytes:
    """A digest of the account's state. A change of any part of it ends the link."""
    state = (str(account.id), account.email, account.role, account.password_hash)
    return hashlib.sha256("\0".join(state).encode()).digest()
