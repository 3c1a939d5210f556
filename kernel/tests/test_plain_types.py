"""What asyncpg takes and gives as SQLAlchemy does is known by exact types; other values go on."""

import enum
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import (
    CHAR,
    JSON,
    Boolean,
    DateTime,
    Double,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    String,
    Uuid,
    bindparam,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import CITEXT, INET, JSONB, TSVECTOR
from sqlmodel import AutoString, UTCDateTime

from kernel.fast.plain_types import POSTGRES, VALUES, value_class
from kernel.fast.statements import plan_of
from kernel.testing.switches import off
from kernel.tests.statement_tables import Backwards, PeeledState
from kernel.tests.test_statements import on_the_long_way, outcome

WINTER = datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
SAMPLES = {
    int: 7,
    str: "x",
    bool: True,
    bytes: b"\x00",
    date: date(2030, 1, 2),
    datetime: WINTER,
    time: time(8),
    timedelta: timedelta(1, 2, 3),
    UUID: UUID(int=7),
    Decimal: Decimal("1.50"),
    float: 0.1,
}


class Title(str):
    """A text of a team's own."""


class Number(int):
    """A number of a team's own."""


class Level(enum.IntEnum):
    LOW = 1


HOSTILE = [
    *(0, -1, 2**31, -(2**31) - 1, 2**63, 2**200, True, Number(3), Level.LOW),
    *("", "1", "a\0b", "\ud800", "x" * 10_000, Title("x"), PeeledState.OPEN, "infinity"),
    *(0.5, -0.0, float("nan"), float("inf"), 1e300),
    *(Decimal("NaN"), Decimal("Infinity"), Decimal("1e400"), Decimal("1E-20000"), Decimal(1)),
    *(b"x", bytearray(b"x"), memoryview(b"x")),
    *(date(2030, 1, 1), date.max, date.min),
    *(WINTER, WINTER.replace(tzinfo=None), WINTER.astimezone(timezone(timedelta(hours=5)))),
    *(
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        WINTER.replace(year=1900),
    ),
    *(datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))),),
    *(time(1), time(1, tzinfo=UTC), timedelta.max, timedelta.min, timedelta(days=400)),
    *(UUID(int=1), str(UUID(int=1)), None, [], [1], {}, object()),
]


@pytest.mark.parametrize("kind", VALUES)
def test_sqlalchemy_leaves_such_a_value_as_it_is(kind):
    """A release that begins to process one is told of here."""
    value = SAMPLES[VALUES[kind]]
    spoken = kind().dialect_impl(POSTGRES)
    for process in (spoken.bind_processor(POSTGRES), spoken.result_processor(POSTGRES, 1700)):
        if process and kind not in {Float, Double}:
            assert process(value) == value
            assert type(process(value)) is type(value)
            assert process(None) is None
    assert value_class(kind()) is VALUES[kind]


OTHERS = [
    *(Enum(PeeledState), Backwards(100), JSON(), JSONB(), INET(), TSVECTOR(), CITEXT(), CHAR(3)),
    *(Numeric(asdecimal=False), Float(asdecimal=True), Uuid(as_uuid=False)),
    *(Uuid(native_uuid=False), Interval(native=False), null().type),
    String().with_variant(Backwards(100), "postgresql"),
    AutoString().with_variant(Backwards(100), "postgresql"),
    UTCDateTime().with_variant(DateTime(), "postgresql"),
    Integer().with_variant(Boolean(), "postgresql"),
]


@pytest.mark.parametrize("kind", OTHERS, ids=repr)
def test_other_types_and_variants_are_sqlalchemys_to_process(kind):
    assert value_class(kind) is None


@pytest.mark.parametrize(
    "kind",
    [
        *(Integer(), String(), Boolean(), LargeBinary(), DateTime(), UTCDateTime(), Interval()),
        *(
            Uuid(),
            AutoString(),
            *(DateTime(timezone=True), Enum(PeeledState), JSONB(), Numeric(), Float()),
        ),
    ],
    ids=repr,
)
async def test_a_value_of_whatever_class_meets_the_same_on_each_way(app, kind):
    statement = select(bindparam("value", type_=kind) == bindparam("value", type_=kind))
    reader = app.state.resources.reader
    for value in HOSTILE:
        values = {"value": value}
        long = await on_the_long_way(reader.fetch, statement, values)
        with off():
            for _ in range(2):
                assert await outcome(reader.fetch, statement, values) == long, value
        assert len(long) != 3 or "x" * 100 not in long[2]
    with off():
        assert (plan_of(statement) is None) == (value_class(kind) is None)
    assert reader.in_use() == 0
