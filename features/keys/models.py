from datetime import UTC, datetime
from typing import Self

from pydantic import model_validator
from sqlalchemy import BigInteger, Boolean, Index, String, Uuid, column, table
from sqlmodel import Field, SQLModel

from kernel import Dto, Input, Line, Public, Secret, Table, Timestamp

# What a key needs of its user and who makes it, by name: slices share the database, not classes.
users = table(
    "users", column("id", BigInteger), column("role", String), column("is_active", Boolean)
)
sign_ins = table("refresh_tokens", column("user_id", BigInteger), column("family", Uuid))


class KeyBase(SQLModel):
    name: Line = Field(max_length=100)
    expires_at: Timestamp | None = None


class Key(KeyBase, Table, table=True):
    __tablename__ = "api_keys"
    __table_args__ = (Index(None, "user_id", "id"),)

    user_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BigInteger)
    prefix: str = Field(max_length=12)
    digest: bytes = Field(unique=True)
    last_used_at: datetime | None = None


class KeyHolder(Dto):
    id: int
    role: str
    key_id: int
    is_stale: bool


class KeyCreate(KeyBase, Input):
    @model_validator(mode="after")
    def _expires_in_the_future(self) -> Self:
        if self.expires_at and self.expires_at <= datetime.now(UTC):
            raise ValueError("expires_at should be in the future")
        return self


class KeyPublic(Public):
    name: str
    expires_at: datetime | None
    prefix: str
    last_used_at: datetime | None


class KeyCreated(KeyPublic):
    key: Secret
