from datetime import datetime
from typing import Literal, Self

from pydantic import ConfigDict, SecretStr, TypeAdapter, ValidationError, model_validator
from pydantic.config import JsonDict
from sqlalchemy import BigInteger, CheckConstraint, Index, String, Uuid, column, func, table, text
from sqlmodel import Field, SQLModel

from kernel import Dto, Email, Input, Line, Password, Public, Table, one_of, search_index

Role = Literal["member", "admin"]
# What ends with a password, by name: slices share the database, not classes.
sign_ins = table("refresh_tokens", column("user_id", BigInteger), column("family", Uuid))
keys = table("api_keys", column("user_id", BigInteger))


class UserBase(SQLModel):
    email: Email = Field(max_length=254, unique=True)
    full_name: Line = Field(max_length=100)


class User(UserBase, Table, table=True):
    __tablename__ = "users"
    __table_args__ = (
        one_of("role", Role),
        CheckConstraint("email = lower(email)", name="email_lower"),
        Index(None, "full_name", "id"),
        Index(None, "is_active", "id"),
        search_index("users", "email"),
        search_index("users", "full_name"),
    )

    password_hash: str = Field(max_length=200)
    password_changed_at: datetime = Field(
        default=None, sa_column_kwargs={"server_default": func.now()}
    )
    role: Role = Field(
        default="member", sa_type=String(20), sa_column_kwargs={"server_default": "member"}
    )
    is_active: bool = Field(default=True, sa_column_kwargs={"server_default": text("true")})


NOT_THE_EMAIL = "password should not be the e-mail address"


def normal_email(text: str) -> str | None:
    """The address in its stored spelling, or None if it is no e-mail address."""
    try:
        return TypeAdapter[str](Email).validate_python(text)
    except ValidationError:
        return None


def is_email(password: SecretStr, email: str) -> bool:
    return normal_email(password.get_secret_value()) == email


class UserCreate(UserBase, Input):
    password: Password

    @model_validator(mode="after")
    def _password_is_not_the_email(self) -> Self:
        if is_email(self.password, self.email):
            raise ValueError(NOT_THE_EMAIL)
        return self


# The fields of a change of one's own account that require another field.
NEEDS = {"email": "current_password", "password": "current_password", "keep_keys": "password"}
DEPENDENT: JsonDict = {name: [needed] for name, needed in NEEDS.items()}


class MeUpdate(Input):
    model_config = ConfigDict(json_schema_extra={"dependentRequired": DEPENDENT})

    full_name: Line = Field(default=None, max_length=100)
    email: Email = Field(default=None, max_length=254)
    password: Password = Field(default=None)
    current_password: SecretStr = Field(default=None, max_length=1024)
    keep_keys: bool = False

    @model_validator(mode="after")
    def _what_is_needed_is_there(self) -> Self:
        for name, needed in NEEDS.items():
            if name in self.model_fields_set and needed not in self.model_fields_set:
                raise ValueError(f"{name} needs {needed}")
        return self


class UserUpdate(Input):
    full_name: Line = Field(default=None, max_length=100)
    role: Role = Field(default=None)
    is_active: bool = Field(default=None)


class Account(Dto):
    email: str
    password_hash: str


class UserPublic(Public):
    """An account, for its owner and for admins."""

    email: str = Field(schema_extra={"json_schema_extra": {"format": "email"}})
    full_name: str
    role: Role
    is_active: bool


class UserSummary(Dto):
    """An account, for all others."""

    id: int
    full_name: str
