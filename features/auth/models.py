from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, DateTime, String, column, func, table
from sqlmodel import Field, SQLModel

from kernel import Dto, Input, Secret, Table, Text

# What sign-in needs of another slice's table, by name: slices share the database, not classes.
users = table(
    "users",
    column("id", BigInteger),
    column("email", String),
    column("password_hash", String),
    column("password_changed_at", DateTime(timezone=True)),
    column("role", String),
    column("is_active", Boolean),
)


class RefreshToken(Table, table=True):
    """One refresh token, as a digest. Those that came from one sign-in are a family."""

    __tablename__ = "refresh_tokens"

    user_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BigInteger, index=True)
    family: UUID = Field(index=True)
    digest: bytes = Field(unique=True)
    expires_at: datetime
    spent_at: datetime | None = None


class SignInAttempt(SQLModel, table=True):
    """How often a sign-in failed of late, for an account or from an address (`digest`)."""

    __tablename__ = "sign_in_attempts"

    digest: bytes = Field(primary_key=True)
    failures: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    since: datetime = Field(
        default=None, index=True, sa_column_kwargs={"server_default": func.now()}
    )


class Account(Dto):
    id: int
    password_hash: str
    role: str


class RefreshTokenInput(Input):
    refresh_token: Text = Field(max_length=200)


class TokenPublic(Dto):
    access_token: Secret
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # a kind of token, not one
    expires_in: int
    refresh_token: Secret
