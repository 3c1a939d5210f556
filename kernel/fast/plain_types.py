"""SQLAlchemy's types whose values asyncpg accepts and returns exactly as SQLAlchemy does.

They are recognised by exact class: a subclass, a `TypeDecorator` or a variant may do anything with
a value. SQLAlchemy processes the values of every type that is not in these tables.
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

# By the class that a parameter's value has to have; None may be sent for each of them.
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
# The class that the PostgreSQL dialect uses for each of them: a variant has another one.
DIALECT_CLASSES = {kind: type(kind().dialect_impl(POSTGRES)) for kind in VALUES}
# SQLAlchemy converts between these two kinds: an expression of one may have values of the other;
# only a column is sure to have its own.
CONVERTED = {*TYPES[Decimal], *TYPES[float]}


def value_class(kind: TypeEngine[Any]) -> type | None:
    """The class of the type's values if they need no processing, or None."""
    cls = type(kind)
    if cls not in VALUES or type(kind.dialect_impl(POSTGRES)) is not DIALECT_CLASSES[cls]:
        return None
    options = OPTIONS.get(cls, {})
    return VALUES[cls] if all(getattr(kind, name) == options[name] for name in options) else None


def element_class(kind: TypeEngine[Any]) -> type | None:
    """The class of a flat array's elements if they need no processing, or None."""
    if type(kind) is not ARRAY or type(kind.item_type) is UTCDateTime:
        return None
    return None if kind.zero_indexes or (kind.dimensions or 1) > 1 else value_class(kind.item_type)


def argument_class(kind: TypeEngine[Any]) -> type | None:
    """The class of a parameter's values if they need no processing, or None."""
    return value_class(kind) or (list if element_class(kind) else None)
