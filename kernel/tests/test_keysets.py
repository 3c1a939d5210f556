"""Pages are complete in the order of whatever PostgreSQL can order, or they are refused at once."""

import base64
import gc
import itertools
import json
import tracemalloc
from enum import Enum as PythonEnum

import pytest
from sqlalchemy import (
    JSON,
    REAL,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Enum,
    ForeignKey,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    bindparam,
    case,
    collate,
    func,
    lateral,
    literal_column,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, INET, JSONB
from sqlalchemy.orm import aliased
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import CHAR
from sqlmodel import AutoString

from kernel.data.keysets import keyset_of
from kernel.data.models import Dto
from kernel.data.paging import Page
from kernel.http.dependencies import Paging, Reader, Session
from kernel.http.router import Router
from kernel.tests.peelings.models import Peeling, PeelingPublic


class Mood(PythonEnum):
    GLAD = "glad"
    CALM = "calm"


class Reversed(TypeDecorator[str]):
    """A text that the database has from back to front."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value, _):
        return None if value is None else value[::-1]

    def process_result_value(self, value, _):
        return None if value is None else value[::-1]


class Coded(TypeDecorator[dict]):
    """What is no value of JSON's, out of one that PostgreSQL orders."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value, _):
        return value["code"]

    def process_result_value(self, value, _):
        return {"code": value}


# A type, and its values as PostgreSQL reads them. There is no order of these alone that could
# hide a mistake: equal ones and nulls are among the rows, too.
TYPES = {
    "integer": (Integer(), ["0", "-1", "2147483647", "-2147483648"]),
    "bigint": (BigInteger(), ["9007199254740993", "9007199254740992", "-9223372036854775808"]),
    "smallint": (SmallInteger(), ["3", "-32768", "7"]),
    "text": (Text(), ["", "a", "B", "\u00e4", "\U0001f955", "a'b", '"\\', "\x01\u2028"]),
    "varchar": (AutoString(length=50), ["a b", "ab", "a-b", "A", "z"]),
    "collated": (String(collation="C"), ["a", "B", "\u00e4", "Z"]),
    "char": (CHAR(5), ["a", "a b", "b"]),
    "boolean": (Boolean(), ["true", "false"]),
    "date": (Date(), ["2030-01-02", "0044-03-15 BC", "infinity", "-infinity", "9999-12-31"]),
    "time": (Time(), ["00:00", "23:59:59.999999", "24:00"]),
    "timetz": (Time(timezone=True), ["12:00+02", "12:00-02", "10:00+00"]),
    "timestamp": (DateTime(), ["2030-01-02 03:04:05.000006", "infinity", "1970-01-01"]),
    "timestamptz": (
        DateTime(timezone=True),
        ["2030-01-02 03:04:05.000006+05:30", "2030-01-02 03:04:05.000007+05:30", "-infinity"],
    ),
    "interval": (
        Interval(),
        ["1 year", "360 days", "361 days", "365 days", "1 mon", "30 days 1 us", "-1 day 2 hours"],
    ),
    "numeric": (Numeric(), ["NaN", "Infinity", "-Infinity", "1.10", "1.1", "1e-30", "1e30"]),
    "amount": (Numeric(12, 2), ["0.10", "-0.10", "9999999999.99"]),
    "double": (Double(), ["NaN", "Infinity", "-Infinity", "-0", "0", "0.1", "1e-300", "0.3"]),
    "real": (REAL(), ["NaN", "0.1", "0.10000001", "-Infinity", "3e38"]),
    "uuid": (Uuid(), [f"{digit}" * 8 + "-0000-4000-8000-000000000000" for digit in "f0a"]),
    "bytea": (LargeBinary(), ["\\x", "\\x00", "\\xff00", "\\x5c"]),
    "enum": (Enum(Mood, name="mood"), ["GLAD", "CALM"]),  # in the order of its definition
    "word": (Enum(Mood, native_enum=False, length=20), ["GLAD", "CALM"]),
    "reversed": (Reversed(), ["ab", "ba", "aa"]),
    "coded": (Coded(), ["7", "-7"]),
    "inet": (INET(), ["10.0.0.1", "10.0.0.0/8", "::1"]),
    "array": (ARRAY(Integer()), ["{}", "{1,NULL}", "{1,2}", "{2}"]),
    "jsonb": (JSONB(), ['{"a": 1}', "[]", '"x"', "null"]),
}
LONG = Text()
tables = MetaData()
SAMPLES = Table(
    "samples",
    tables,
    Column("id", BigInteger, primary_key=True),
    *(Column(name, kind) for name, (kind, _) in TYPES.items()),
)
PAIRS = Table(
    "pairs",
    tables,
    Column("left_id", Integer, primary_key=True),
    Column("right_id", String, primary_key=True),
    Column("sample_id", ForeignKey("samples.id")),
    Column("rank", Integer, nullable=False),
    Column("due", Date),
    Column("note", Text),
    Column("document", JSON),
)
NOTES = Table("notes", tables, Column("note", Text), Column("rank", Integer))
ORDERS = [sign + name for name in TYPES for sign in ("", "-")]


class Any(Dto):
    """Of a row, only what a walk compares."""

    n: str


def numbered(table, *columns):
    """Whatever a row's key is, in one text."""
    keys = (func.coalesce(key.cast(Text), "-") for key in table.primary_key)
    return select(func.concat_ws("/", *keys, type_=Text).label("n"), *columns)


STATEMENTS = {}
router = Router(prefix="/walked")


@router.get("")
async def walked(reader: Reader, paging: Paging, what: str, order: str) -> Page[Any]:
    made = STATEMENTS[what]
    return await paging.fetch(reader, Any, made() if callable(made) else made, order)


@pytest.fixture
async def samples(sql):
    """The tables, and rows in them: each value twice, and nulls."""
    await sql.execute("CREATE TYPE mood AS ENUM ('GLAD', 'CALM')")
    for table in tables.sorted_tables:
        await sql.execute(str(CreateTable(table).compile(dialect=postgresql.dialect())))
    longest = max(len(values) for _, values in TYPES.values())
    for number in range(2 * longest + 4):
        row = {}
        for name, (kind, values) in TYPES.items():
            value = [None, *values][number % (len(values) + 1)]
            row[name] = (value, kind.compile(dialect=postgresql.dialect()))
        columns = ", ".join(f'"{name}"' for name in row)
        casts = ", ".join(f"${at}::text::{kind}" for at, (_, kind) in enumerate(row.values(), 1))
        casts = casts.replace(' COLLATE "C"', "")
        given = [value for value, _ in row.values()]
        await sql.execute(
            f"INSERT INTO samples (id, {columns}) VALUES ({number + 1}, {casts})", *given
        )
    await sql.execute(
        "INSERT INTO pairs SELECT n / 4, 'r' || n % 4, CASE WHEN n % 3 > 0 THEN 1 + n % 20 END,"
        " n % 3, CASE WHEN n % 4 > 0 THEN date '2030-01-01' + n % 5 END,"
        " CASE WHEN n % 5 > 0 THEN 'note ' || n % 2 END FROM generate_series(0, 39) n"
    )
    yield
    await sql.execute("DROP TABLE pairs, notes, samples")
    await sql.execute("DROP TYPE mood")


@pytest.fixture
async def client(samples, mount):
    async with mount(router) as client:
        yield client


async def walk(client, what, order, limit):
    seen, cursor = [], None
    while not seen or cursor:
        params = {"what": what, "order": order, "limit": limit}
        answer = await client.get("/walked", params=params | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        seen += [row["n"] for row in answer.json()["items"]]
        cursor = answer.json()["next_cursor"]
        assert len(seen) < 1000, "the walk has no end"
    return seen


async def ordered(sql, statement, order):
    """The same rows in one query, equal ones among each other in any order."""
    inner = statement.subquery()
    ways = [
        f'"{name.lstrip("-")}" {"DESC" if name[0] == "-" else "ASC"}' for name in order.split(",")
    ]
    compiled = inner.select().compile(
        dialect=postgresql.dialect(paramstyle="numeric_dollar"),
        compile_kwargs={"literal_binds": True},
    )
    ranked = f"SELECT n, dense_rank() OVER (ORDER BY {', '.join(ways)}) AS rank FROM ({compiled}) x"
    rows = await sql.fetch(ranked)
    return {row["n"]: row["rank"] for row in rows}


async def check_walks(client, sql, what, order, limits=(1, 3, 100)):
    made = STATEMENTS[what]
    ranks = await ordered(sql, made() if callable(made) else made, order)
    walks = [await walk(client, what, order, limit) for limit in limits]
    assert sorted(walks[0]) == sorted(ranks), "each row once"
    assert [ranks[n] for n in walks[0]] == sorted(ranks.values()), "in order"
    assert all(each == walks[0] for each in walks), "whatever the size of a page"


STATEMENTS |= {name: numbered(SAMPLES, SAMPLES.c[name]) for name in TYPES}


@pytest.mark.parametrize("name", TYPES)
async def test_pages_are_complete_in_the_order_of_every_type(client, sql, name):
    for order in (name, f"-{name}"):
        await check_walks(client, sql, name, order)


STATEMENTS["pairs"] = numbered(PAIRS, PAIRS)
NAMES = ("rank", "due", "note", "left_id", "right_id")


@pytest.mark.parametrize("names", [*itertools.permutations(("rank", "due", "note"), 3)])
async def test_each_column_of_an_order_has_its_own_direction(client, sql, names):
    for signs in itertools.product(("", "-"), repeat=3):
        order = ",".join(map("".join, zip(signs, names, strict=True)))
        await check_walks(client, sql, "pairs", order, limits=(2, 100))


@pytest.mark.parametrize("names", [*itertools.permutations(NAMES, 2)])
async def test_a_key_may_have_several_columns_and_stand_anywhere_in_an_order(client, sql, names):
    for signs in itertools.product(("", "-"), repeat=2):
        order = ",".join(map("".join, zip(signs, names, strict=True)))
        await check_walks(client, sql, "pairs", order, limits=(3, 100))
