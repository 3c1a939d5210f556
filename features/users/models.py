from datetime import datetime
from typing import Literal, Self

from pydantic import ConfigDict, model_validator
from sqlalchemy import CheckConstraint, String, func, text
from sqlmodel import Field, SQLModel

from kernel import Email, Input, Line, Password, Public, Table, one_of, search_index

Role = Literal["member", "admin"]


class UserBase(SQLModel):
    email: Email = Field(max_length=254, unique=True)
    full_name: Line = Field(max_length=100)


class User(UserBase, Table, table=True):
    __tablename__ = "users"
    __table_args__ = (
        one_of("role", Role),
        CheckConstraint("email = lower(email)", name="email_lower"),
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


class UserCreate(UserBase, Input):
    password: Password

    @model_validator(mode="after")
    def _password_is_not_the_email(self) -> Self:
        if self.password.get_secret_value().lower() == self.email:
            raise ValueError("password should not be the e-mail address")
        return self


class MeUpdate(Input):
    model_config = ConfigDict(
        json_schema_extra={
            "dependentRequired": {
                "password": ["current_password"],
                "current_password": ["password"],
            }
        }
    )

    full_name: Line = Field(default=None, max_length=100)
    password: Password = Field(default=None)
    current_password: Password = Field(default=None)

    @model_validator(mode="after")
    def _new_password_needs_the_current(self) -> Self:
        if ("password" in self.model_fields_set) != ("current_password" in self.model_fields_set):
            raise ValueError("password and current_password should be given together")
        return self


class UserUpdate(Input):
    full_name: Line = Field(default=None, max_length=100)
    role: Role = Field(default=None)
    is_active: bool = Field(default=None)


class UserPublic(Public):
    email: str = Field(schema_extra={"json_schema_extra": {"format": "email"}})
    full_name: str
    role: Role
    is_active: bool
