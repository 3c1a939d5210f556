from datetime import datetime
from typing import Literal

from sqlalchemy import BigInteger, Boolean, String, column, table
from sqlmodel import Field

from kernel import Dto, Email, Input, Line, Mail, Password, Public, Table, Text

# The roles that an invitation can give: all that accounts have and an admin may grant.
Role = Literal["member", "admin"]
# What an account is made of, by name: slices share the database, not classes. A column that every
# account has to have belongs here, too, and is a field of `Acceptance`.
users = table(
    "users",
    column("id", BigInteger),
    column("email", String),
    column("full_name", String),
    column("role", String),
    column("password_hash", String),
    column("is_active", Boolean),
)


class Invitation(Table, table=True):
    """An invitation to make an account of this role, with the token whose SHA-256 is `digest`."""

    __tablename__ = "invitations"

    email: Email = Field(max_length=254, unique=True)
    role: str = Field(max_length=20)
    digest: bytes = Field(unique=True)
    expires_at: datetime
    invited_by: int = Field(
        foreign_key="users.id", ondelete="CASCADE", sa_type=BigInteger, index=True
    )


class Invited(Dto):
    email: str
    role: str


class InvitationMail(Mail, template="invitation"):
    service: str
    base: str
    token: str
    days: int


class InvitationCreate(Input):
    email: Email = Field(max_length=254)
    role: Role = "member"


class InvitationPublic(Public):
    email: str
    role: Role
    expires_at: datetime
    invited_by: int


class Acceptance(Input):
    token: Text = Field(max_length=200)
    password: Password
    full_name: Line = Field(max_length=100)
