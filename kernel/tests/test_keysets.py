"""Pages are complete in the order of whatever PostgreSQL can order, or they are refused at once."""

import base64
import gc
import itertools
import json
import tracemalloc
from enum import Enum as PythonEnum

import pytest
from pydantic import ConfigDict
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
    Index,
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
    union_all,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, INET, JSONB
from sqlalchemy.orm import (
    aliased,
    column_property,
    deferred,
    registry,
    with_loader_criteria,
)
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.types import CHAR
from sqlmodel import AutoString

from kernel.data.keysets import _keysets, keyset_of
from kernel.data.models import Dto
from kernel.data.paging import Page, Pager
from kernel.errors import Unprocessable
from kernel.http.dependencies import Paging, Reader, Session
from kernel.http.router import Router


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


class CaseBlind(TypeDecorator[str]):
    """A text that compares in another way than the database orders it."""

    impl = Text
    cache_ok = True

    class comparator_factory(TypeDecorator.Comparator):  # noqa: N801  # SQLAlchemy's name
        def operate(self, op, *other, **_):
            return op(func.lower(self.expr, type_=Text), *(func.lower(each) for each in other))

    def coerce_compared_value(self, *_):
        return self


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
    "date": (Date(), ["2030-01-02", "infinity", "-infinity", "9999-12-31"]),
    "time": (Time(), ["00:00", "23:59:59.999999"]),
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
    "enum": (Enum(Mood, name="peeled_mood"), ["GLAD", "CALM"]),  # in the order of its definition
    "word": (Enum(Mood, native_enum=False, length=20), ["GLAD", "CALM"]),
    "reversed": (Reversed(), ["ab", "ba", "aa"]),
    "blind": (CaseBlind(), ["a", "B", "b", "A", "C"]),
    "coded": (Coded(), ["7", "-7"]),
    "inet": (INET(), ["10.0.0.1", "10.0.0.0/8", "::1"]),
    "array": (ARRAY(Integer()), ["{}", "{1,NULL}", "{1,2}", "{2}"]),
    "jsonb": (JSONB(), ['{"a": 1}', "[]", '"x"', "null"]),
}
tables = MetaData()
SAMPLES = Table(
    "peeled_samples",
    tables,
    Column("id", BigInteger, primary_key=True),
    *(Column(name, kind) for name, (kind, _) in TYPES.items()),
)
PAIRS = Table(
    "peeled_pairs",
    tables,
    Column("left_id", Integer, primary_key=True),
    Column("right_id", String, primary_key=True),
    Column("sample_id", ForeignKey("peeled_samples.id")),
    Column("rank", Integer, nullable=False),
    Column("due", Date),
    Column("note", Text),
    Column("document", JSON),
)
DEEP = Table(
    "peeled_deep",
    tables,
    Column("id", BigInteger, primary_key=True),
    Column("owner_id", BigInteger, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("due", Date),
    Column("moment", DateTime(timezone=True), nullable=False),
    Index("peeled_deep_due", "due", "id"),
    Index("peeled_deep_rank_due", "rank", "due", "id"),
    Index("peeled_deep_rank_due_desc", "rank", text("due DESC"), text("id DESC")),
    Index("peeled_deep_moment", "moment", "id"),
)
OWNERS = Table(
    "peeled_owners", tables, Column("id", BigInteger, primary_key=True), Column("name", Text)
)
NOTES = Table("peeled_notes", tables, Column("note", Text), Column("rank", Integer))


class Numbered(Dto):
    """Of a row, only what a walk compares."""

    n: str


def n(*keys):
    """Whatever the keys of a row are, in one text."""
    texts = (func.coalesce(key.cast(Text), "-") for key in keys)
    return func.concat_ws("/", *texts, type_=Text).label("n")


STATEMENTS = {}
router = Router(prefix="/walked")


@router.get("")
async def walked(reader: Reader, paging: Paging, what: str, order: str) -> Page[Numbered]:
    made = STATEMENTS[what]
    return await paging.fetch(reader, Numbered, made() if callable(made) else made, order)


@pytest.fixture
async def samples(sql):
    """The tables, and rows in them: each value twice, and nulls."""
    await sql.execute("CREATE TYPE peeled_mood AS ENUM ('GLAD', 'CALM')")
    for table in tables.sorted_tables:
        for step in (CreateTable(table), *map(CreateIndex, table.indexes)):
            await sql.execute(str(step.compile(dialect=postgresql.dialect())))
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
            f"INSERT INTO peeled_samples (id, {columns}) VALUES ({number + 1}, {casts})", *given
        )
    await sql.execute(
        "INSERT INTO peeled_pairs"
        " SELECT n / 4, 'r' || n % 4, CASE WHEN n % 3 > 0 THEN 1 + n % 10 END, n % 3,"
        " CASE WHEN n % 4 > 0 THEN date '2030-01-01' + n % 5 END,"
        " CASE WHEN n % 5 > 0 THEN 'note ' || n % 2 END FROM generate_series(0, 39) n"
    )
    yield
    await sql.execute(
        "DROP TABLE peeled_pairs, peeled_notes, peeled_samples, peeled_deep, peeled_owners"
    )
    await sql.execute("DROP TYPE peeled_mood")


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


async def check_walks(client, sql, what, order, limits=(1, 3)):
    made = STATEMENTS[what]
    ranks = await ordered(sql, made() if callable(made) else made, order)
    walks = [await walk(client, what, order, limit) for limit in limits]
    assert sorted(walks[0]) == sorted(ranks), "each row once"
    assert [ranks[n] for n in walks[0]] == sorted(ranks.values()), "in order"
    assert all(each == walks[0] for each in walks), "whatever the size of a page"


STATEMENTS |= {name: select(n(SAMPLES.c.id), SAMPLES.c[name]) for name in TYPES}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.slow
async def test_pages_are_complete_in_the_order_of_every_type(client, sql, name):
    for order in (name, f"-{name}"):
        await check_walks(client, sql, name, order)


STATEMENTS["pairs"] = select(n(PAIRS.c.left_id, PAIRS.c.right_id), PAIRS)


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_each_column_of_an_order_has_its_own_direction(client, sql, count):
    for names in itertools.permutations(("rank", "due", "note"), count):
        for signs in itertools.product(("", "-"), repeat=count):
            order = ",".join(map("".join, zip(signs, names, strict=True)))
            await check_walks(client, sql, "pairs", order, limits=(5,))


async def test_a_key_may_have_several_columns_and_stand_anywhere_in_an_order(client, sql):
    for names in itertools.permutations(("due", "left_id", "right_id"), 2):
        for signs in itertools.product(("", "-"), repeat=2):
            order = ",".join(map("".join, zip(signs, names, strict=True)))
            await check_walks(client, sql, "pairs", order, limits=(6,))


# Statements of other shapes.

PARENT = SAMPLES.alias("parent")
COUNTS = (
    select(SAMPLES.c.id, func.count(PAIRS.c.rank).label("many"))
    .outerjoin_from(SAMPLES, PAIRS, PAIRS.c.sample_id == SAMPLES.c.id)
    .group_by(SAMPLES.c.id)
    .subquery("counts")
)
RANKED = select(
    SAMPLES.c.id,
    func.row_number(type_=Integer).over(order_by=SAMPLES.c.text.desc()).label("number"),
).subquery("ranked")
FIRST = select(SAMPLES).order_by(SAMPLES.c.id.desc()).limit(9).subquery("first")
BOTH = union_all(
    select(SAMPLES.c.id, SAMPLES.c.text).where(SAMPLES.c.id < 4),
    select(SAMPLES.c.id, SAMPLES.c.text).where(SAMPLES.c.id > 7),
).subquery("both")
NONE = (
    select(SAMPLES.c.id, PAIRS.c.left_id, PAIRS.c.right_id)
    .outerjoin_from(SAMPLES, PAIRS, PAIRS.c.sample_id == SAMPLES.c.id)
    .subquery("perhaps")
)
WITH = select(SAMPLES.c.id, SAMPLES.c.date).where(SAMPLES.c.id < 9).cte("chosen")
LATEST = lateral(
    select(PAIRS).where(PAIRS.c.sample_id == SAMPLES.c.id).order_by(PAIRS.c.rank).limit(2)
).alias("latest")


class Sample:
    """A row, as the ORM has it."""


registry().map_imperatively(
    Sample,
    SAMPLES,
    properties={
        "day": SAMPLES.c.date,
        "smallint": deferred(SAMPLES.c.smallint),
        "half": column_property(SAMPLES.c.bigint / 2),
    },
)
OTHER = aliased(Sample)
of_pair = (PAIRS.c.left_id, PAIRS.c.right_id)
joined = PAIRS.join(SAMPLES, PAIRS.c.sample_id == SAMPLES.c.id)
SHAPES = {
    "an entity": select(Sample, n(Sample.id)),
    "an alias": select(OTHER, n(OTHER.id)),
    "a property": select(n(Sample.id), Sample.half.label("half")),
    "a label": select(n(SAMPLES.c.id), SAMPLES.c.date.label("day")),
    "a function": select(n(SAMPLES.c.id), func.lower(SAMPLES.c.text, type_=Text).label("low")),
    "a sum": select(n(SAMPLES.c.id), (SAMPLES.c.bigint / 2 + SAMPLES.c.amount).label("sum")),
    "a division": select(n(SAMPLES.c.id), (SAMPLES.c.integer / 7).label("part")),
    "a case": select(
        n(SAMPLES.c.id),
        case((SAMPLES.c.boolean, "yes"), (SAMPLES.c.id < 5, None), else_="no").label("word"),
    ),
    "a collation": select(n(SAMPLES.c.id), collate(SAMPLES.c.text, "C").label("plain")),
    "a count": select(
        n(SAMPLES.c.id),
        select(func.count()).where(PAIRS.c.sample_id == SAMPLES.c.id).scalar_subquery().label("c"),
    ),
    "many to one": select(n(*of_pair), SAMPLES.c.text).select_from(joined),
    "many to one or none": select(n(*of_pair), SAMPLES.c.date).select_from(
        PAIRS.outerjoin(SAMPLES, PAIRS.c.sample_id == SAMPLES.c.id)
    ),
    "one to many": select(n(SAMPLES.c.id, *of_pair), SAMPLES.c.word).join_from(
        SAMPLES, PAIRS, PAIRS.c.sample_id == SAMPLES.c.id
    ),
    "one to many or none": select(n(SAMPLES.c.id, *of_pair), PAIRS.c.rank).outerjoin_from(
        SAMPLES, PAIRS, PAIRS.c.sample_id == SAMPLES.c.id
    ),
    "all of both": select(n(SAMPLES.c.id, *of_pair), PAIRS.c.due).outerjoin_from(
        SAMPLES, PAIRS, PAIRS.c.sample_id == SAMPLES.c.id, full=True
    ),
    "all of both, by key": select(n(SAMPLES.c.id, PARENT.c.id), PARENT.c.integer).outerjoin_from(
        SAMPLES, PARENT, PARENT.c.id == SAMPLES.c.id + 3, full=True
    ),
    "itself": select(n(SAMPLES.c.id, PARENT.c.id), PARENT.c.text).join_from(
        SAMPLES, PARENT, PARENT.c.id > SAMPLES.c.id + 12
    ),
    "two ids": select(
        n(SAMPLES.c.id, PARENT.c.id), SAMPLES.c.id, PARENT.c.id, SAMPLES.c.text
    ).join_from(SAMPLES, PARENT, PARENT.c.id > SAMPLES.c.id + 12),
    "two tables": select(n(SAMPLES.c.id, *of_pair), PAIRS.c.note).where(
        PAIRS.c.rank == SAMPLES.c.id
    ),
    "a subquery of a limit": select(n(FIRST.c.id), FIRST.c.date),
    "a subquery of none": select(n(NONE.c.id, NONE.c.left_id, NONE.c.right_id), NONE.c.left_id),
    "a subquery of groups": select(n(COUNTS.c.id), COUNTS.c.many),
    "a join with groups": select(n(SAMPLES.c.id), COUNTS.c.many).join_from(
        SAMPLES, COUNTS, COUNTS.c.id == SAMPLES.c.id
    ),
    "a subquery with a window": select(n(RANKED.c.id), RANKED.c.number),
    "a union": select(n(BOTH.c.id), BOTH.c.text),
    "a common table": select(n(WITH.c.id), WITH.c.date),
    "a lateral": select(
        n(SAMPLES.c.id, LATEST.c.left_id, LATEST.c.right_id), LATEST.c.due
    ).join_from(SAMPLES, LATEST, literal_column("true")),
    "a condition": select(n(SAMPLES.c.id), SAMPLES.c.uuid).where(
        (SAMPLES.c.id % 3 == 1) | SAMPLES.c.text.ilike("a%")
    ),
}
STATEMENTS |= SHAPES


@pytest.mark.parametrize("what", SHAPES)
@pytest.mark.slow
async def test_pages_of_a_statement_of_every_shape_are_complete(client, sql, what):
    names = [column.name for column in SHAPES[what].selected_columns]
    name = "date" if "date" in names else names[-1]
    for order in (name, f"-{name}", f"{name},-n", f"-n,{name}"):
        await check_walks(client, sql, what, order, limits=(1, 4))


def test_the_key_of_what_a_row_refers_to_is_not_in_the_order():
    """Or no index could be read in it."""
    for what in ("many to one", "many to one or none"):
        first = str(keyset_of(SHAPES[what], "n").first.statement)
        assert first.endswith(
            "peeled_pairs.left_id ASC, peeled_pairs.right_id ASC\n LIMIT :kernel_page_limit"
        )


# What cannot be paged.

plain = select(n(SAMPLES.c.id), SAMPLES.c.text)
twice = func.generate_series(1, 2, type_=Integer)
REFUSED = {
    "no select": (union_all(plain, plain), "n", "only a select"),
    "an order": (plain.order_by(SAMPLES.c.id), "text", "only columns, FROM and WHERE"),
    "a limit": (plain.limit(3), "text", "only columns, FROM and WHERE"),
    "an offset": (plain.offset(3), "text", "only columns, FROM and WHERE"),
    "a fetch": (plain.fetch(3), "text", "only columns, FROM and WHERE"),
    "distinct": (plain.distinct(), "text", "only columns, FROM and WHERE"),
    "distinct on": (
        plain.ext(postgresql.distinct_on(SAMPLES.c.text)),
        "text",
        "only columns, FROM and WHERE",
    ),
    "groups": (
        select(SAMPLES.c.text.label("n"), func.count()).group_by(SAMPLES.c.text),
        "n",
        "only columns, FROM and WHERE",
    ),
    "having": (plain.having(func.count() > 1), "n", "only columns, FROM and WHERE"),
    "a prefix": (plain.prefix_with("DISTINCT"), "n", "only columns, FROM and WHERE"),
    "a window": (plain.add_columns(func.count().over().label("all")), "n", "a window function"),
    "no column": (plain, "title", "it selects: n, text"),
    "no name": (plain, "", "it selects: n, text"),
    "no name behind a comma": (plain, "text,", "it selects: n, text"),
    "a column that is not selected": (plain, "id", "it selects: n, text"),
    "two columns": (select(SAMPLES.c.id.label("n"), PARENT.c.id.label("n")), "n", "two columns"),
    "a deferred column": (
        select(Sample, n(Sample.id)),
        "smallint",
        "the order names a deferred column",
    ),
    "a loader": (
        select(Sample, n(Sample.id)).options(with_loader_criteria(Sample, SAMPLES.c.id > 3)),
        "n",
        "only columns, FROM and WHERE",
    ),
    "unknown columns": (select(text("*")).select_from(SAMPLES), "n", "it selects: "),
    "no type": (plain.add_columns(func.lower(SAMPLES.c.text).label("low")), "low", "the type of"),
    "no table": (
        select(func.now().cast(Text).label("n")).select_from(func.now()),
        "n",
        "no primary",
    ),
    "no key": (select(NOTES.c.note.label("n")), "n", "peeled_notes has no primary key"),
    "a join without a key": (
        plain.join_from(SAMPLES, NOTES, NOTES.c.rank == SAMPLES.c.id),
        "n",
        "peeled_notes has no primary key",
    ),
    "a subquery without a key": (
        select(select(NOTES.c.note.label("n")).subquery("them")),
        "n",
        "them has no primary key",
    ),
    "no order of PostgreSQL's": (
        select(n(*of_pair), PAIRS.c.document),
        "document",
        "could not identify an ordering operator for type json",
    ),
    "an aggregate": (
        select(func.count().cast(Text).label("n")).select_from(SAMPLES),
        "n",
        "GROUP BY",
    ),
    "rows of one key": (plain.add_columns(twice.label("twice")), "text", "two rows"),
    "a subquery whose key is none": (
        select(
            select(SAMPLES.c.id, n(SAMPLES.c.id))
            .join_from(SAMPLES, PAIRS, PAIRS.c.rank < 2)
            .subquery()
        ),
        "n",
        "two rows",
    ),
}
STATEMENTS |= {what: statement for what, (statement, _, _) in REFUSED.items()}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_paged_is_refused_at_the_first_page(client, log, what):
    _, order, words = REFUSED[what]
    answer = await client.get("/walked", params={"what": what, "order": order, "limit": 1})
    assert answer.status_code == 500
    assert words in str(log.lines("ERROR"))


# What comes between two pages.


async def test_rows_that_come_and_go_between_pages_move_no_other(client, sql):
    """In every order, whatever nulls are in it, and where the last row itself has gone."""
    for signs in itertools.product(("", "-"), repeat=2):
        order = ",".join(map("".join, zip(signs, ("due", "note"), strict=True)))
        whole = await walk(client, "pairs", order, 100)
        params = {"what": "pairs", "order": order, "limit": 7}
        seen, cursor, gone = [], None, set()
        while not seen or cursor:
            more = {"cursor": cursor} if cursor else {}
            page = (await client.get("/walked", params=params | more)).json()
            seen += [row["n"] for row in page["items"]]
            cursor = page["next_cursor"]
            left, right = seen[-1].split("/")
            rows = f"FROM peeled_pairs WHERE left_id = {left} AND right_id = '{right}'"
            await sql.execute(
                "INSERT INTO peeled_pairs"
                " SELECT left_id + 1000, right_id, sample_id, rank, due, note"
                f" {rows} ON CONFLICT DO NOTHING"
            )
            await sql.execute(f"DELETE {rows}")
            gone |= {seen[-1]}
        assert [each for each in seen if each in whole] == whole, order
        assert len(set(seen)) == len(seen)
        await sql.execute("UPDATE peeled_pairs SET left_id = left_id - 1000 WHERE left_id >= 1000")


async def test_a_cursor_is_as_good_in_a_unit_of_work(samples, mount, alice, sql):
    own = Router(prefix="/own")

    @own.post("")
    async def in_a_session(session: Session, paging: Paging) -> Page[Numbered]:
        return await paging.fetch(session, Numbered, STATEMENTS["pairs"], "-due,note")

    @own.get("")
    async def in_a_reader(reader: Reader, paging: Paging) -> Page[Numbered]:
        return await paging.fetch(reader, Numbered, STATEMENTS["pairs"], "-due,note")

    async with mount(own) as client:
        cursor = (await client.post("/own?limit=11")).json()["next_cursor"]
        pages = [
            (await client.request(method, "/own", params={"limit": 11, "cursor": cursor})).json()
            for method in ("GET", "POST")
        ]
    assert pages[0] == pages[1]
    assert len(pages[0]["items"]) == 11


KINDS = ("integer", "bigint", "date", "text", "uuid", "real", "double")
STATEMENTS |= {f"{k}, as x": select(n(SAMPLES.c.id), SAMPLES.c[k].label("x")) for k in KINDS}


async def test_a_cursor_does_not_outlive_the_type_of_its_column(client):
    """As after a migration: its value would be one of another type."""
    cursors = {}
    for kind in KINDS:
        params = {"what": f"{kind}, as x", "order": "x", "limit": 1}
        cursors[kind] = (await client.get("/walked", params=params)).json()["next_cursor"]
    for kind, of in itertools.product(KINDS, KINDS):
        params = {"what": f"{kind}, as x", "order": "x", "cursor": cursors[of]}
        answer = await client.get("/walked", params=params)
        assert answer.status_code == (200 if kind == of else 422), (kind, of)


# Texts that no cursor can hold.


@pytest.mark.parametrize("order", ["note", "-note"])
@pytest.mark.parametrize("letter", ["x", "\U0001f955", "\x01"])
async def test_a_text_of_any_length_may_be_ordered_by(client, sql, order, letter):
    await sql.execute("UPDATE peeled_pairs SET note = repeat($1, 3000 + left_id) || note", letter)
    await check_walks(client, sql, "pairs", order, limits=(1, 7))


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM peeled_pairs",
        "UPDATE peeled_pairs SET note = 'short'",
        "UPDATE peeled_pairs SET note = NULL",
    ],
)
async def test_the_place_of_a_long_text_is_gone_with_its_row(client, sql, change):
    await sql.execute("UPDATE peeled_pairs SET note = repeat('x', 5000) || left_id || right_id")
    params = {"what": "pairs", "order": "note", "limit": 1}
    cursor = (await client.get("/walked", params=params)).json()["next_cursor"]
    assert len(cursor) < 400
    assert (await client.get("/walked", params=params | {"cursor": cursor})).status_code == 200
    await sql.execute(change)
    answer = await client.get("/walked", params=params | {"cursor": cursor})
    assert (answer.status_code, answer.json()["message"]) == (
        422,
        "the cursor is not valid for this list",
    )


# A statement that is made for each request.


def lazily(number):
    return select(n(SAMPLES.c.id), SAMPLES.c.date).where(SAMPLES.c.id > number)


async def test_a_statement_of_its_own_for_each_request_has_its_own_values(client, sql):
    for number in (3, 9, 5, 3, 0):
        STATEMENTS["lazy"] = lambda number=number: lazily(number)
        await check_walks(client, sql, "lazy", "-date", limits=(2, 100))
        whole = await walk(client, "lazy", "date", 5)
        assert min(map(int, whole)) == number + 1


def test_nothing_is_kept_of_a_statement_that_is_gone():
    def page(number):
        statement = lazily(number)
        keyset = keyset_of(statement, "date")
        assert keyset is keyset_of(statement, "date")
        return [keyset.first, *keyset.behind(["2030-01-01", "1"]), keyset.row([None, "1"])]

    def remember():
        for number in range(40):
            page(number)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        for _ in range(5):  # until nothing else is new
            remember()
        before, after = remember(), remember()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


def test_orders_that_a_client_makes_up_do_not_fill_the_memory():
    statement, names = lazily(0), ["n", "date"]
    for signs in itertools.product(("", "-"), repeat=8):
        keyset_of(statement, ",".join(sign + names[at % 2] for at, sign in enumerate(signs)))
    assert len(_keysets[statement]) <= 64


# What is in a row, and what is not.


async def test_what_a_cursor_needs_is_in_no_answer(samples, mount):
    class Strict(Numbered):
        model_config = ConfigDict(extra="forbid")

    class Open(Numbered):
        model_config = ConfigDict(extra="allow")

    own = Router(prefix="/own")
    statement = select(n(SAMPLES.c.id), SAMPLES.c.id.label("date")).where(SAMPLES.c.id < 4)

    @own.get("/strict")
    async def strict(reader: Reader, paging: Paging) -> Page[Strict]:
        only = select(n(SAMPLES.c.id)).where(SAMPLES.c.id < 4)
        return await paging.fetch(reader, Strict, only, "n")

    @own.get("/open")
    async def opened(reader: Reader, paging: Paging) -> Page[Open]:
        return await paging.fetch(reader, Open, statement, "-date")

    async with mount(own) as client:
        for path in ("strict", "open"):
            answer = await client.get(f"/own/{path}?limit=2")
            assert answer.status_code == 200
            names = {name for row in answer.json()["items"] for name in row}
            assert names == ({"n"} if path == "strict" else {"n", "date"})


async def test_a_cursor_shows_no_more_than_the_place(client):
    params = {"what": "bytea", "order": "bytea", "limit": 1}
    cursor = (await client.get("/walked", params=params)).json()["next_cursor"]
    content = json.loads(base64.urlsafe_b64decode(cursor)[:-16])
    assert content[0] == "bytea"
    assert content[2][0].startswith("\\x")


def test_a_key_that_was_replaced_is_still_good():
    """Its operator has changed the secret, and the pages go on."""
    scope = {"path": "/x", "query_string": b""}
    keyset = keyset_of(STATEMENTS["integer"], "integer")
    old, new = b"old" * 11, b"new" * 11
    seal = Pager(1, None, (old,), scope)._seal(keyset, ["integer", None, [1, "1"]])
    for keys, is_good in (((old,), True), ((new, old), True), ((new,), False)):
        pager = Pager(1, seal, keys, scope)
        opened = pager._open(None, keyset, "integer", {})
        if is_good:
            with pytest.raises(StopIteration) as place:
                opened.send(None)
            assert place.value.value == [1, "1"]
        else:
            with pytest.raises(Unprocessable):
                opened.send(None)


# Deep down.

OWNED = select(DEEP, OWNERS.c.name).join_from(DEEP, OWNERS, OWNERS.c.id == DEEP.c.owner_id)
MAYBE_OWNED = select(DEEP, OWNERS.c.name).outerjoin_from(
    DEEP, OWNERS, OWNERS.c.id == DEEP.c.owner_id
)


async def pages_read(sql, query, values):
    """How much of the database a query looks at."""
    compiled = query.statement.compile(dialect=postgresql.dialect(paramstyle="numeric_dollar"))
    arguments = [values[name] for name in compiled.positiontup]
    plan = await sql.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {compiled}", *arguments)
    found = json.loads(plan)[0]["Plan"]
    return found["Shared Hit Blocks"] + found["Shared Read Blocks"]


@pytest.mark.parametrize(
    "statement", [select(DEEP), OWNED, MAYBE_OWNED], ids=["one", "both", "any"]
)
async def test_the_deepest_page_reads_no_more_than_the_first(samples, sql, statement):
    await sql.execute("INSERT INTO peeled_owners SELECT n, 'name' FROM generate_series(0, 9) n")
    await sql.execute(
        "INSERT INTO peeled_deep"
        " SELECT n, n % 10, n % 3, CASE WHEN n % 4 > 0 THEN date '2000-01-01' + n / 9 END,"
        " timestamptz '2000-01-01' + n / 9 * interval '1 s' FROM generate_series(1, 20000)"
        " n"
    )
    await sql.execute("VACUUM ANALYZE peeled_deep, peeled_owners")
    orders = ("id", "-id", "due", "-due", "moment", "-moment", "rank,due", "-rank,-due")
    for order in (*orders, "rank,-due", "-rank,due"):
        keyset = keyset_of(statement, order)
        compiled = keyset.first.statement.compile(dialect=postgresql.dialect())
        rows = await sql.fetch(str(compiled) % {"kernel_page_limit": "NULL"})
        first = await pages_read(sql, keyset.first, {"kernel_page_limit": 51})
        for at in (100, 5_000, 10_000, 14_990, 15_010, 19_900):
            place, found, read = keyset.place(rows[at]), 0, 0
            for query in keyset.behind(place):
                values = query.values(place, 51 - found)
                read += await pages_read(sql, query, values)
                inner = query.statement.compile(
                    dialect=postgresql.dialect(paramstyle="numeric_dollar")
                )
                found += len(await sql.fetch(str(inner), *(values[n] for n in inner.positiontup)))
                if found == 51:
                    break
            assert found == 51
            # A row of each page of the table, at worst; all of it is 150.
            assert read <= 3 * first + 10, f"{order} at {at}: {read}, and the first page {first}"


async def test_a_statement_may_have_parameters_of_any_name(samples, mount):
    own = Router(prefix="/own")
    statement = select(n(SAMPLES.c.id)).where(SAMPLES.c.id >= bindparam("page_0"))

    @own.get("")
    async def list_named(reader: Reader, paging: Paging) -> Page[Numbered]:
        return await paging.fetch(reader, Numbered, statement, "n", page_0=2)

    async with mount(own) as client:
        first = (await client.get("/own?limit=1")).json()
        second = (await client.get(f"/own?limit=1&cursor={first['next_cursor']}")).json()
    assert [page["items"][0]["n"] for page in (first, second)] == ["10", "11"]
