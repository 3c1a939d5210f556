"""Tables with a column of each type, and some rows, for the tests of statements."""

import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Text,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, INET, INT4RANGE, JSONB, Range
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from kernel.data.models import Table
from kernel.fast.plain_types import POSTGRES


class Backwards(TypeDecorator[str]):
    """Stands for a column that is encrypted at rest."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, _: Any) -> Any:
        return value and "enc:" + value[::-1]

    def process_result_value(self, value: Any, _: Any) -> Any:
        return value and value[4:][::-1]


class PeeledState(enum.StrEnum):
    OPEN = "open"  # SQLAlchemy stores the name, "OPEN"
    PAID = "paid"


class Mood(enum.Enum):
    GLAD = "glad"
    SAD = "sad"


NAIVE = datetime(2030, 1, 2)  # noqa: DTZ001  # as a column without a zone has it
MOODS = Enum(Mood, native_enum=False, values_callable=lambda moods: [mood.value for mood in moods])


OWN = MetaData()  # no migration is to make them


class Shop(SQLModel, table=True):
    metadata: ClassVar[MetaData] = OWN
    __tablename__ = "peeled_shops"

    id: int = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    name: str = Field(max_length=50, unique=True)
    since: date | None = None


class Thing(Table, table=True):
    metadata: ClassVar[MetaData] = OWN
    __tablename__ = "peeled_things"

    shop_id: int | None = Field(default=None, sa_column=Column(ForeignKey("peeled_shops.id")))
    name: str = Field(max_length=50)
    note: str | None = None
    body: str | None = Field(default=None, sa_type=Text)
    number: int = 0
    big: int = Field(default=2**40, sa_type=BigInteger)
    small: int = Field(default=7, sa_type=SmallInteger)
    price: Decimal = Field(default=Decimal("1.50"), max_digits=12, decimal_places=2)
    ratio: float = 0.5
    is_new: bool = True
    born: date = date(2030, 1, 2)
    seen_at: datetime = datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    naive_at: datetime | None = Field(default=NAIVE, sa_type=DateTime(timezone=False))
    opens: time = time(8, 30)
    lasts: timedelta = timedelta(hours=1, microseconds=5)
    key: UUID = UUID(int=7)
    digest: bytes = b"\x00\xff"
    state: PeeledState = PeeledState.OPEN
    mood: Mood = Field(default=Mood.GLAD, sa_type=MOODS)
    secret: str | None = Field(default="hello", sa_type=Backwards(100))
    document: dict[str, Any] | None = Field(default={"a": [1, None]}, sa_type=JSON)
    data: dict[str, Any] | None = Field(default={"b": 1.5}, sa_type=JSONB)
    tags: list[str] | None = Field(default=["x", "y"], sa_type=ARRAY(String))
    numbers: list[int] | None = Field(default=[1, 2], sa_type=ARRAY(Integer))
    address: Any = Field(nullable=True, default=IPv4Address("10.0.0.1"), sa_type=INET)
    span: Any = Field(nullable=True, default=Range(1, 5), sa_type=INT4RANGE)
    nick: str | None = Field(default="Nick", sa_column=Column("nickname", String(20)))


class Made(SQLModel, table=True):
    """Whose values are made where they can be: by Python, with its context, and in SQL."""

    metadata: ClassVar[MetaData] = OWN
    __tablename__ = "peeled_made"

    id: int = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    name: str
    status: str = "new"
    upper: str = Field(
        default=None,
        sa_column=Column(
            String, default=lambda context: context.get_current_parameters()["name"].upper()
        ),
    )
    code: str = Field(default=None, sa_column=Column(String, default=func.md5("a")))
    token: str = Field(default=None, sa_column=Column(String, default=lambda: "made"))
    place: int = Field(default=None, sa_column_kwargs={"server_default": "3"})


class Blank(SQLModel, table=True):
    """Whose values the database makes, if they are not given."""

    metadata: ClassVar[MetaData] = OWN
    __tablename__ = "peeled_blanks"

    id: int = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    place: int = Field(default=None, sa_column_kwargs={"server_default": "3"})
    secret: str = Field(
        default=None, sa_type=Backwards(100), sa_column_kwargs={"server_default": "enc:olleh"}
    )


DDL = "; ".join(
    ["CREATE TYPE peeledstate AS ENUM ('OPEN', 'PAID')"]
    + [str(CreateTable(table).compile(dialect=POSTGRES)) for table in OWN.sorted_tables]
)
UNDO = "DROP TABLE peeled_blanks, peeled_made, peeled_things, peeled_shops; DROP TYPE peeledstate"


def rows() -> list[Any]:
    """Two peeled_shops, and things of the first and of none."""
    empty: Any = dict.fromkeys(
        ["naive_at", "secret", "document", "data", "tags", "numbers", "address", "span", "nick"]
    )
    return [
        Shop(name="Corner", since=date(2020, 1, 1)),
        Shop(name="Market"),
        Thing(name="a", shop_id=1, number=1),
        Thing(name="b", shop_id=1, number=2, note="noted", state=PeeledState.PAID, mood=Mood.SAD),
        Thing(name="c", number=3, price=Decimal("99999.99"), ratio=-1e300, is_new=False, **empty),
    ]
