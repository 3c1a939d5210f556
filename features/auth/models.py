from typing import Literal

from sqlalchemy import BigInteger, Boolean, String, column, table
from sqlmodel import SQLModel

from features.kernel.identity import Role
from features.kernel.models import Secret

# What sign-in needs of another slice's table, by name: slices share the database, not classes.
users = table(
    "users",
    column("id", BigInteger),
    column("email", String),
    column("password_hash", String),
    column("role", String),
    column("is_active", Boolean),
)


class Account(SQLModel):
    id: int
    password_hash: str
    role: Role


class TokenPublic(SQLModel):
    access_token: Secret
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # a kind of token, not one
    expires_in: int
