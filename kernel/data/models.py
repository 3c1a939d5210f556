"""The base classes of tables and DTOs, and types whose values PostgreSQL can store."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NoReturn, Self, get_args
from unicodedata import normalize

from email_validator import EmailNotValidError, validate_email
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic import Field as PydanticField
from pydantic_core import CoreSchema
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    FetchedValue,
    Identity,
    Index,
    column,
    func,
    text,
)
from sqlalchemy.orm import declared_attr
from sqlmodel import Field, SQLModel

from kernel.data.bounds import Bounds
from kernel.data.lines import VISIBLE
from kernel.data.trimming import Trimmed, trimming
from kernel.fast.rows import BARE_NEW

# Migrations name constraints, so the names must be the same everywhere. It has to be set before
# the class of any table exists (Alembic manual, "The Importance of Naming Constraints").
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
BIGINT_MAX = 2**63 - 1
GENERIC = (
    "{name} cannot be generic, since SQLModel would not validate the parameter: derive it from"
    " pydantic's BaseModel, or give its fields concrete types"
)


class Table(SQLModel):
    """The columns of every table: id, the times of creation and last change, and the version.

    `version` grows by one with each update, which the database counts. An update by the ORM of a
    version that is no longer there changes nothing and raises (SQLAlchemy manual, "Configuring a
    Version Counter").
    """

    id: int = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    created_at: datetime = Field(default=None, sa_column_kwargs={"server_default": func.now()})
    updated_at: datetime = Field(
        default=None, sa_column_kwargs={"server_default": func.now(), "onupdate": func.now()}
    )
    version: int = Field(
        default=None,
        sa_column_kwargs={"server_default": text("1"), "server_onupdate": FetchedValue()},
    )

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:
        # With eager defaults, the INSERT or UPDATE itself returns them: one round trip.
        return {"version_id_col": cls.__table__.c.version, "eager_defaults": True}  # type: ignore[attr-defined]


def search_index(table: str, column: str) -> Index:
    """A trigram index for `like`: it finds three or more letters or digits anywhere in the column,
    in any case, and fewer at its beginning. Letters are those of the database's LC_CTYPE: with C,
    only ASCII's."""
    name = f"ix_{table}_{column}_search"
    return Index(name, column, postgresql_using="gin", postgresql_ops={column: "gin_trgm_ops"})


def one_of(name: str, choices: Any) -> CheckConstraint:
    """The CHECK constraint of a column that holds only the values of a `Literal[…]`."""
    return CheckConstraint(column(name).in_(get_args(choices)), name=name)


class Dto(SQLModel):
    """Fields that are no table's row: pydantic makes them, without what an ORM needs of a row."""

    # SQLModel's type lacks some of pydantic's keys, such as `alias_generator`.
    model_config = ConfigDict()  # type: ignore[assignment]

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return object.__new__(cls)

    __init__ = BaseModel.__init__

    def __class_getitem__(cls, _: object) -> NoReturn:
        raise TypeError(GENERIC.format(name=cls.__name__))


BARE_NEW.add(Dto.__new__)


class Input(Dto):
    """The base of every body: an unknown field is a mistake, not something to drop silently."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _is_not_flooded(cls, data: object) -> object:
        # Each unknown field becomes an error in the answer: 1 MB of them froze the loop for 1.3 s.
        if isinstance(data, dict) and len(data) > len(cls.model_fields) + 20:
            raise ValueError("has too many fields")
        return data

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return trimming(handler(source), handler)


class Public(Dto):
    """What every answer about one row carries, besides the slice's own fields."""

    id: int
    created_at: datetime
    updated_at: datetime
    version: int


def storable(value: str) -> str:
    """The text unchanged.

    Raises:
        ValueError: it has a NUL character, which PostgreSQL cannot store.
    """
    # PostgreSQL manual §8.3: the character with code zero cannot be stored.
    if "\x00" in value:
        raise ValueError("should not contain a NUL character")
    return value


def _not_blank(value: str) -> str:
    if not re.search(VISIBLE, value):
        raise ValueError("should not be blank")
    return value


ENCODED_WORD = "=?"


def _normal_email(value: str) -> str:
    try:
        address = validate_email(value.strip(), check_deliverability=False)
    except EmailNotValidError:
        # `from None`: the library's messages repeat parts of the address.
        raise ValueError("should be an e-mail address") from None
    # RFC 2047 §5: no encoded word is in an address. Who reads a header may decode it all the same.
    if ENCODED_WORD in address.normalized:
        raise ValueError("should be an e-mail address")
    # RFC 6532 §3.1 asks for NFC, which lower-casing can undo.
    return normalize("NFC", address.normalized.lower())


SHOWN_ONCE = "kernel_shown_once"


@dataclass(frozen=True)
class ShownOnce:
    """Marks a field that holds a secret: an answer with such a field is never stored."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        # In the schema, it is found at any depth and in any kind of model.
        schema: dict[str, Any] = {**handler(source)}
        return schema | {"metadata": {**schema.get("metadata", {}), SHOWN_ONCE: True}}


# The validators give readable messages; the patterns document the same rules for clients.
TEXT_PATTERN = r"^[^\x00]*$"
STORABLE = PydanticField(json_schema_extra={"pattern": TEXT_PATTERN})
Text = Annotated[str, AfterValidator(storable), STORABLE]
"""Text of any language. Give it a length: `Field(max_length=…)`."""

Line = Annotated[
    str,
    Bounds(min_length=1),
    AfterValidator(_not_blank),
    AfterValidator(storable),
    Trimmed(),
]
"""Text of one line that is not blank; of a request's, the blanks around it go."""

Email = Annotated[
    str,
    StringConstraints(max_length=254),
    AfterValidator(storable),
    AfterValidator(_normal_email),
    WithJsonSchema({"type": "string", "format": "email", "maxLength": 254}),
]
"""An address, at most 254 characters (RFC 5321 §4.5.3.1.3), normalised: no blanks around it, small
letters, composed (NFC), the domain as Unicode (IDNA). `TypeAdapter(Email)` gives the same."""

Secret = Annotated[str, ShownOnce()]
"""A token or key in an answer."""
