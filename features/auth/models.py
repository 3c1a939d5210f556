from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, String, column, table
from sqlmodel import Field

from kernel import Dto, Input, Public, Secret, Table, Text

# What sign-in needs of another slice's table, by name: slices share the database, not classes.
users = table(
    "users",
    column("id", BigInteger),
    *(column(name, String) for name in ("email", "password_hash", "role")),
    column("is_active", Boolean),
)


class SignIn(Table, table=True):
    """A sign-in: its tokens are valid while this row exists.

    They name it by `family`, a random UUID. The digests (SHA-256) are those of its refresh token
    and of the one before; `salt` is the key with which the one was derived from the other.
    """

    __tablename__ = "refresh_tokens"  # once a row for each token

    user_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BigInteger, index=True)
    family: UUID = Field(index=True)
    digest: bytes = Field(unique=True)
    previous_digest: bytes | None = None
    salt: bytes | None = None
    expires_at: datetime
    spent_at: datetime | None = None  # of tokens that an earlier version has exchanged


class Account(Dto):
    id: int
    password_hash: str


class RefreshTokenInput(Input):
    refresh_token: Text = Field(max_length=200)


class TokenPublic(Dto):
    access_token: Secret
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # a kind of token, not one
    expires_in: int
    refresh_token: Secret


class SignInPublic(Public):
    expires_at: datetime
    is_current: bool
