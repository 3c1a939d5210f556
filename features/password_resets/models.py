from datetime import datetime

from sqlalchemy import BigInteger, Boolean, DateTime, String, column, table
from sqlmodel import Field

from kernel import Dto, Email, Input, Mail, Password, Table, Text

# What a new password changes, by name: slices share the database, not classes.
users = table(
    "users",
    column("id", BigInteger),
    column("email", String),
    column("role", String),
    column("password_hash", String),
    column("password_changed_at", DateTime(timezone=True)),
    column("updated_at", DateTime(timezone=True)),
    column("is_active", Boolean),
)
sign_ins = table("refresh_tokens", column("user_id", BigInteger))
keys = table("api_keys", column("user_id", BigInteger))


class PasswordReset(Table, table=True):
    """The latest link that was sent for an account: the digest of its token, and of what the
    account was then."""

    __tablename__ = "password_resets"

    user_id: int = Field(
        foreign_key="users.id", ondelete="CASCADE", sa_type=BigInteger, unique=True
    )
    digest: bytes = Field(unique=True)
    bound_to: bytes
    expires_at: datetime = Field(index=True)


class Account(Dto):
    id: int
    email: str
    role: str
    password_hash: str


class BoundAccount(Account):
    bound_to: bytes


class ResetMail(Mail, template="reset"):
    base: str
    token: str
    minutes: int


class PasswordResetCreate(Input):
    email: Email = Field(max_length=254)


class PasswordResetCompletion(Input):
    token: Text = Field(max_length=200)
    password: Password
