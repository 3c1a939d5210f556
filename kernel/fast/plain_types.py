"""Types of SQLAlchemy's whose values asyncpg takes and gives just as SQLAlchemy does.

They are known by their exact class: a subclass, a `TypeDecorator` or a variant may do anything with
a value. What is not in these tables is SQLAlchemy's to process.
"""

import uuid
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ARRAY,
    BIGINT,
    BOOLEAN,
    DATE,
    INTEGER,
    NUMERIC,
    SMALLINT,
    TEXT,
    TIME,
    TIMESTAMP,
    UUID,
    VARCHAR,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Double,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Text,
    Time,
    Unicode,
    UnicodeText,
    Uuid,
    make_url,
)
from sqlalchemy.types import TypeEngine
from sqlmodel import AutoString, UTCDateTime

POSTGRES = make_url("postgresql+asyncpg://").get_dialect()()

# By the class of the values that a parameter of the type is sent with; None is sent with any.
TYPES: dict[type, tuple[type[TypeEngine[Any]], ...]] = {
    int: (Integer, SmallInteger, BigInteger, INTEGER, SMALLINT, BIGINT),
    str: (String, Text, Unicode, UnicodeText, VARCHAR, TEXT, AutoString),
    bool: (Boolean, BOOLEAN),
    bytes: (LargeBinary,),
    date: (Date, DATE),
    datetime: (DateTime, TIMESTAMP, UTCDateTime),
    time: (Time, TIME),
    timedelta: (Interval,),
    uuid.UUID: (Uuid, UUID),
    Decimal: (Numeric, NUMERIC),
    float: (Float, Double),
}
VALUES = {kind: value for value, kinds in TYPES.items() for kind in kinds}
OPTIONS: dict[type, dict[str, object]] = {
    **{kind: {"asdecimal": True} for kind in TYPES[Decimal]},
    **{kind: {"asdecimal": False} for kind in TYPES[float]},
    **{kind: {"as_uuid": True, "native_uuid": True} for kind in TYPES[uuid.UUID]},
    Interval: {"native": True},
}
# The class by which each of them is spoken to PostgreSQL: a variant has another one.
SPOKEN = {kind: type(kind().dialect_impl(POSTGRES)) for kind in VALUES}
# Numbers of the other kind are converted: only a column of the type is sure to hold its own.
CONVERTED = {*TYPES[Decimal], *TYPES[float]}


def value_class(kind: TypeEngine[Any]) -> type | None:
    """The class of the values that the type takes and gives as they are, or None."""
    of = type(kind)
    if of not in VALUES or type(kind.dialect_impl(POSTGRES)) is not SPOKEN[of]:
        return None
    options = OPTIONS.get(of, {})
    return VALUES[of] if all(getattr(kind, name) == options[name] for name in options) else None


def element_class(kind: TypeEngine[Any]) -> type | None:
    """The class of the elements of a flat array that a parameter takes as it is, or None."""
    if type(kind) is not ARRAY or type(kind.item_type) is UTCDateTime:
        return None
    return None if kind.zero_indexes or (kind.dimensions or 1) > 1 else value_class(kind.item_type)


def argument_class(kind: TypeEngine[Any]) -> type | None:
    """The class of what a parameter of the type takes as it is, or None."""
    return value_class(kind) or (list if element_class(kind) else None)
