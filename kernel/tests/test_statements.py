"""A statement gives the same on asyncpg itself as when SQLAlchemy executes it, or is refused alike.

By the chapters of SQLAlchemy's manual: "Using SELECT Statements" (columns, labels, WHERE, joins,
ORDER BY, GROUP BY, aliases, subqueries, CTEs, scalar and correlated subqueries, LATERAL, UNION,
EXISTS, functions, window functions, table-valued functions, casts), "Using INSERT Statements",
"Using UPDATE and DELETE Statements" (RETURNING, FROM), "Column Elements and Expressions" (case,
literal, type_coerce, in_, any_, between, like, tuple_, bindparam, text), "SQL and Generic
Functions", "The Type Hierarchy", "Custom Types", and "PostgreSQL" (ARRAY, JSON, JSONB, ranges,
INET, full text, DISTINCT ON, ON CONFLICT).
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict
from pydantic import Field as PydanticField
from sqlalchemy import (
    ARRAY,
    JSON,
    Date,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    String,
    Uuid,
    any_,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    insert,
    lateral,
    literal,
    literal_column,
    null,
    select,
    text,
    true,
    tuple_,
    type_coerce,
    union,
    union_all,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import INT4RANGE, Range, distinct_on
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import CompileError, ResourceClosedError, StatementError
from sqlalchemy.orm import aliased
from sqlmodel import col
from sqlmodel import select as model_select

from kernel.data.independent import open_session
from kernel.data.models import Dto
from kernel.driver_errors import sqlstate
from kernel.errors import ServiceError
from kernel.fast import inserts, statements
from kernel.fast.records import Row
from kernel.testing.switches import off
from kernel.tests.processes import until
from kernel.tests.statement_tables import DDL, UNDO, Made, Mood, PeeledState, Shop, Thing, rows

T: Any = Thing
S: Any = Shop
M: Any = Made
Other: Any = aliased(Thing)
OWN = select(T).order_by(T.id)
first_things = select(T.id, T.name).where(T.number < 3).cte("first_things")
numbers = select(literal(1).label("n")).cte("numbers", recursive=True)
numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < 4))
dear = select(T.shop_id, func.max(T.price).label("most")).group_by(T.shop_id).subquery()
biggest = lateral(
    select(T.name.label("thing")).where(T.shop_id == S.id).order_by(T.number.desc()).limit(1)
)
by_shop = {"partition_by": T.shop_id, "order_by": T.number}
pairs = values(column("k", Integer), column("v", String), name="pairs").data([(1, "x"), (2, "y")])

QUERIES: dict[str, Any] = {
    # Using SELECT statements; what is marked runs on asyncpg.
    "* entity of plain columns": model_select(S).order_by(S.id),
    "entity of all types": OWN,
    "* columns": select(T.id, T.name, T.note).order_by(T.id),
    "* label": select(T.name.label("title")).order_by(T.id),
    "* plain types": select(
        *(T.number, T.big, T.small, T.price, T.ratio, T.is_new),
        *(T.born, T.seen_at, T.naive_at, T.opens, T.lasts, T.key),
        *(T.digest, T.body),
    ).order_by(T.id),
    "* where": (select(T.id).where(T.name == bindparam("name")), {"name": "b"}),
    "* where, of params()": select(T.id).where(T.name == bindparam("name")).params(name="b"),
    "* where, of params() and a value": (
        select(T.id).where(T.name == bindparam("name")).params(name="b"),
        {"name": "a"},
    ),
    "* where, of params() instead of its own": (
        select(T.id).where(T.name == bindparam("name", "c")).params(name="b")
    ),
    "* where, of params() without a value": select(T.id)
    .where(T.name == bindparam("name"), T.number > bindparam("number"))
    .params({"name": None}, number=0),
    "* where, of a subquery's params()": select(
        select(T.id).where(T.name == bindparam("name")).params(name="b").subquery()
    ),
    "* where, literal": select(T.id).where(T.name == "b", T.number > 1),
    "* is null": select(T.id).where(col(T.note).is_(None)).order_by(T.id),
    "* between": select(T.id).where(T.number.between(2, 3)).order_by(T.id),
    "* like": (select(T.id).where(col(T.note).ilike(bindparam("p"))), {"p": "NOT%"}),
    "* join": select(T.name, S.name.label("shop")).join(S).order_by(T.id),
    "* outer join": select(T.id, S.name).outerjoin(S).order_by(T.id),
    "* full join": select(T.id, S.since).join(S, full=True).order_by(T.id, S.id),
    "join of two entities": select(T, S).join(S).order_by(T.id),
    "* alias": select(T.id, Other.id.label("other"))
    .join(Other, Other.number == T.number + 1)
    .order_by(T.id),
    "* order, nulls last": select(T.id).order_by(col(T.note).desc().nulls_last(), T.id),
    "* distinct": select(T.shop_id).distinct().order_by(T.shop_id),
    "* distinct on": select(T.name).ext(distinct_on(T.shop_id)).order_by(T.shop_id, T.id),
    "* limit and offset": select(T.id).order_by(T.id).limit(1).offset(1),
    "* limit as a parameter": (
        select(T.id).order_by(T.id).limit(bindparam("most", type_=Integer)),
        {"most": 2},
    ),
    "limit as a parameter of no type": (
        select(T.id).order_by(T.id).limit(bindparam("most")),
        {"most": 2},
    ),
    "* group by": select(T.shop_id, func.count())
    .group_by(T.shop_id)
    .having(func.count() > 0)
    .order_by(T.shop_id),
    "* rollup": select(T.name, func.count()).group_by(func.rollup(T.name)).order_by(T.name),
    "* count": select(func.count()).select_from(T),
    "* sum of integers": select(func.sum(T.number)),
    "* sum of big integers": select(func.sum(T.big)),
    "sum of decimals": select(func.sum(T.price)),
    "average": select(func.avg(T.number)),
    "* max": select(func.max(T.seen_at), func.min(T.name), func.max(T.number)),
    "sum of floats": select(func.sum(T.ratio)),
    "* cte": select(first_things.c.name).order_by(first_things.c.id),
    "* recursive cte": select(numbers.c.n).order_by(numbers.c.n),
    "subquery": select(dear.c.shop_id, dear.c.most).order_by(dear.c.most),
    "* scalar subquery": select(
        S.id, select(func.count()).where(T.shop_id == S.id).scalar_subquery().label("things")
    ).order_by(S.id),
    "* lateral": select(S.name, biggest.c.thing).join(biggest, true()).order_by(S.id),
    "* union": union(select(T.name), select(S.name)).order_by("name"),
    "union all": union_all(select(T.price), select(T.ratio)).order_by("price"),
    "* exists": select(S.id).where(exists().where(T.shop_id == S.id)),
    "window": select(T.id, func.row_number().over(**by_shop)).order_by(T.id),
    "lag": select(T.id, func.lag(T.name).over(**by_shop)).order_by(T.id),
    "filter": select(func.count().filter(T.number > 1), func.array_agg(T.name)),
    "* for update": select(T.id).order_by(T.id).with_for_update(skip_locked=True),
    "* values": select(pairs.c.k, pairs.c.v).order_by(pairs.c.k),
    "* nothing": select(T.id).where(T.id == -1),
    # Column elements and expressions.
    "* case": select(case((T.number > 1, "many"), else_="one").label("so")).order_by(T.id),
    "case of decimals": select(case((T.number > 1, T.price))).order_by(T.id),
    "* literal": select(literal(1), literal("x"), literal(True), literal(date(2030, 1, 1))),
    "literal of a decimal": select(literal(Decimal("1.5")), literal(0.5)),
    "null": select(null(), literal(None)),
    "* cast": select(cast(T.number, String), cast(literal("7"), Integer)).order_by(T.id),
    "cast to a number": select(cast(T.number, Numeric(5, 2)), cast(T.number, Float)),
    "* type_coerce": select(type_coerce(T.name, Integer)).order_by(T.id),
    "literal_column": select(literal_column("1.5"), literal_column("2", Integer)),
    "* arithmetic": select(T.number + 1, T.number * 2, -T.number).order_by(T.id),
    "division": select(T.number / 2, T.price * 2, T.number // 2).order_by(T.id),
    "* concatenation": select(T.name + "!", T.name.concat("?")).order_by(T.id),
    "in": (select(T.id).where(T.name.in_(["a", "c"])).order_by(T.id)),
    "in, as a parameter": (
        select(T.id).where(T.name.in_(bindparam("names", expanding=True))),
        {"names": ["b"]},
    ),
    "in nothing": select(T.id).where(T.name.in_([])),
    "* in a subquery": select(T.id).where(T.shop_id.in_(select(S.id))).order_by("id"),
    "not in": select(T.id).where(T.name.not_in(["a"])).order_by(T.id),
    "tuples in": select(T.id).where(tuple_(T.name, T.number).in_([("a", 1)])),
    "* tuple": select(T.id).where(tuple_(T.number, T.id) > tuple_(2, 0)),
    "* any": (
        select(T.id).where(T.name == any_(bindparam("n", type_=ARRAY(String)))),
        {"n": ["a", "b"]},
    ),
    "text": (text("SELECT id, name FROM peeled_things WHERE number > :n ORDER BY id"), {"n": 1}),
    "text with types": text("SELECT secret, state FROM peeled_things ORDER BY id").columns(
        T.secret, T.state
    ),
    "text in a where": select(T.id).where(text("number = 2")),
    "text as a column": select(text("id, name"), T.seen_at).order_by(T.id),
    "two columns of one name": text("SELECT 1 AS n, 2 AS n"),
    "* a column twice": select(T.id, T.id).order_by(T.id),
    "* a parameter's own value": select(bindparam("n", 5, type_=Integer)),
    "* a parameter's value, given before": select(bindparam("given", type_=Integer)).params(
        given=5
    ),
    "* another value than was given before": (
        select(bindparam("given", type_=Integer)).params(given=5),
        {"given": 6},
    ),
    "a callable's value": select(bindparam("n", callable_=lambda: 5, type_=Integer)),
    "a literal in the SQL": select(T.id).where(T.name == bindparam("n", "a", literal_execute=True)),
    "a parameter in the SQL": (
        select(T.id).where(T.name == bindparam("n", literal_execute=True)),
        {"n": "b"},
    ),
    # Functions.
    "function of no type": select(func.lower(T.name), func.length(T.name)),
    "* now": select(func.now() > T.created_at).order_by(T.id),
    "* coalesce": select(func.coalesce(T.note, "-")).order_by(T.id),
    "* generate_series": select(func.generate_series(1, 3, type_=Integer)),
    "table-valued": select(func.json_each(cast({"a": 1}, JSON)).table_valued("key", "value")),
    "function alone": func.upper("x"),
    "* concat": select(func.concat(T.name, 1, type_=String)).order_by(T.id),
    # Types.
    "enum": (select(T.id, T.state).where(T.state == bindparam("s")), {"s": PeeledState.PAID}),
    "enum in": select(T.mood).where(T.mood.in_([Mood.SAD])),
    "enum of varchar": (select(T.mood).where(T.mood == bindparam("m")), {"m": Mood.SAD}),
    "decorated": (select(T.id, T.secret).where(T.secret == bindparam("s")), {"s": "hello"}),
    "one name for two types": (
        select(T.id).where(T.secret == bindparam("s"), T.name != bindparam("s")),
        {"s": "hello"},
    ),
    "json": select(T.document, T.data, T.document["a"]).order_by(T.id),
    "jsonb contains": select(T.id).where(T.data.contains({"b": 1.5})).order_by(T.id),
    "json in text": text(
        "SELECT document, data, '[1]'::jsonb AS list FROM peeled_things ORDER BY id"
    ),
    "json parameter": (select(bindparam("d", type_=T.__table__.c.data.type)), {"d": {"x": 1}}),
    "array": select(T.tags, T.numbers, T.tags[1]).order_by(T.id),
    "array contains": select(T.id).where(T.tags.contains(["x"])).order_by(T.id),
    "inet": (select(T.address).where(T.address == bindparam("a")), {"a": IPv4Address("10.0.0.1")}),
    "range": select(T.span).where(T.span.contains(2)),
    "range parameter": (select(bindparam("r", type_=INT4RANGE)), {"r": Range(1, 2)}),
    "full text": select(T.id).where(func.to_tsvector("simple", T.name).match("a")),
    "* another name": select(T.nick).order_by(T.id),
    "* interval": (select(T.seen_at + bindparam("d", type_=Interval)), {"d": timedelta(1)}),
    "* moment": (
        select(T.id).where(T.seen_at < bindparam("t")).order_by(T.id),
        {"t": datetime(2031, 1, 1, tzinfo=UTC)},
    ),
    "* infinite moment": select(
        cast(literal("infinity"), T.__table__.c.seen_at.type).label("t"), T.seen_at
    ).order_by(T.id),
    "* every plain parameter": (
        select(
            *(bindparam("i", type_=Integer), bindparam("s", type_=String)),
            *(bindparam("d", type_=Date), bindparam("b", type_=LargeBinary)),
            *(bindparam("u", type_=Uuid), bindparam("f", type_=Interval)),
        ),
        {"i": 1, "s": "x", "d": date(2030, 1, 1), "b": b"x", "u": UUID(int=1), "f": timedelta(1)},
    ),
    "server settings": text("SHOW timezone"),
    "options": select(T.id).execution_options(logging_token="t"),
    "* compiled by another label style": select(T.id, S.id).join(S).order_by(T.id),
}


NEW = {"name": "new", "shop_id": 1}
WRITES: dict[str, Any] = {
    "insert": insert(T).values(name="n").returning(T.id, T.secret, T.state, T.price),
    "insert of parameters": (insert(S).returning(S.name, S.since), {"name": "Kiosk"}),
    "insert of many": insert(S).values([{"name": "x"}, {"name": "y"}]).returning(S.name),
    "insert from select": insert(S).from_select(["name"], select(T.name)).returning(S.name),
    "insert with defaults": insert(M).values(name="m").returning(*M.__table__.c),
    "insert of an expression": insert(S).values(name=func.upper("k")).returning(S.name),
    "upsert": upsert(S)
    .values(name="Corner")
    .on_conflict_do_update(index_elements=["name"], set_={"name": "again"})
    .returning(S.name),
    "update": update(T).where(T.number == 1).values(secret="new").returning(T.id, T.secret),
    "update of parameters": (
        update(S)
        .where(S.id == bindparam("shop"))
        .values(name=bindparam("title"))
        .returning(S.id, S.name),
        {"shop": 1, "title": "New"},
    ),
    "update from": update(T).where(T.shop_id == S.id).values(note=S.name).returning(T.id, T.note),
    "update that returns nothing": update(T).values(note="x"),
    "onupdate": update(T).values(note="x").returning(T.updated_at > T.created_at),
    "delete": delete(T).where(T.state == PeeledState.PAID).returning(T.id, T.mood),
    "write in a cte": select(
        insert(M).values(name="in a cte").returning(M.status, M.place).cte("made")
    ),
    "update in a cte": select(
        update(S).where(S.id == 1).values(name=literal("x")).returning(S.name).cte("changed")
    ),
    "text": text("UPDATE peeled_shops SET name = 'x' WHERE id = 1 RETURNING id, name"),
    "constraint": insert(T).values(name="x", shop_id=99),
    "missing": insert(T).values(number=1),
    "unknown column": (insert(S).returning(S.id), {"name": "x", "colour": "red"}),
}


class ShopPublic(Dto):
    id: int
    name: str


REFUSED = {"write in a cte", "constraint", "missing", "unknown column"}


@pytest.fixture(scope="module")
async def tables(sql_connection, running_app):
    await sql_connection.execute(DDL)
    running_app.state.resources.writer.expire()  # which may know another type of this name
    yield
    await sql_connection.execute(UNDO)


def values_of(row):
    """What is given for a row: neither what the database makes nor SQLAlchemy's own."""
    made = {"id", "created_at", "updated_at", "version", "_sa_instance_state"}
    return {name: value for name, value in vars(row).items() if name not in made}


@pytest.fixture
async def filled(tables, app, sql):
    """The app, with the rows in its database."""
    await sql.execute(
        "ALTER SEQUENCE peeled_shops_id_seq RESTART; ALTER SEQUENCE peeled_things_id_seq RESTART"
    )
    async with open_session(app) as session:
        for row in rows():  # not by the ORM, for which None would be the default
            await session.exec(insert(type(row)).values(**values_of(row)))
    return app


@pytest.fixture(params=["short", "long"])
def way(request):
    with off(*(["statements", "rows"] if request.param == "long" else [])):
        yield request.param


def split(query):
    return query if isinstance(query, tuple) else (query, {})


def is_idle(app):
    async def is_idle():
        return app.state.resources.writer.in_use() == app.state.resources.reader.in_use() == 0

    return is_idle


async def outcome(fetch, statement, values):
    """The rows with their names and types, or the refusal."""
    try:
        records = await fetch(statement, **values)
    except Exception as error:  # noqa: BLE001  # whatever it is
        is_told = isinstance(error, TypeError | ServiceError)
        return type(error).__name__, sqlstate(error), str(error) if is_told else ""
    return [
        ([*row.keys()], [*map(type, row)], repr([*row.values()]), len(row), repr(dict(row.items())))
        for row in records
    ]


def doors(app):
    """Where a statement runs, each time in a state of its own."""
    reader = app.state.resources.reader

    async def in_a_snapshot(statement, **values):
        async with reader.snapshot() as snapshot:
            return await snapshot.fetch(statement, **values)

    async def in_a_session(statement, **values):
        async with open_session(app) as session:
            return await session.fetch(statement, **values)

    return reader.fetch, in_a_snapshot, in_a_session


async def on_the_long_way(fetch, statement, values):
    with off("statements"):
        return await outcome(fetch, statement, values)


@pytest.mark.parametrize("name", QUERIES)
async def test_a_query_gives_the_same_on_each_way(filled, name):
    statement, values = split(QUERIES[name])
    for fetch in doors(filled):
        long = await on_the_long_way(fetch, statement, values)
        with off():
            for _ in range(3):
                assert await outcome(fetch, statement, values) == long
    async with open_session(filled) as session:
        result = await (await session.connection()).execute(statement, values)
        plain = [([*result.keys()], [*map(type, row)], repr([*row])) for row in result]
    assert [row[:3] for row in long] == plain
    with off():
        assert (statements.plan_of(statement) is not None) == (name[:2] == "* ")
    assert await is_idle(filled)()


async def test_a_stream_gives_what_a_query_does(filled):
    class Anything(BaseModel):
        model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    reader = filled.state.resources.reader
    for name, query in QUERIES.items():
        if name == "* for update":
            continue
        statement, values = split(query)
        async with reader.snapshot() as snapshot:
            rows = await snapshot.all(Anything, statement, **values)
            streamed = [row async for row in snapshot.stream(Anything, statement, **values)]
        assert repr(streamed) == repr(rows), name
    assert reader.in_use() == 0


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_gives_what_sqlalchemy_gives(filled, name):
    statement, values = split(WRITES[name])
    found = []
    for _ in range(3):
        async with open_session(filled) as session:
            found.append(await outcome(session.fetch, statement, values))
            await session.rollback()
            if name == "unknown column":  # of which SQLAlchemy says nothing
                continue
            try:
                result = await (await session.connection()).execute(statement, values)
                plain = [([*result.keys()], [*map(type, row)]) for row in result]
            except (StatementError, CompileError, ResourceClosedError):
                assert found[-1] == [] or isinstance(found[-1], tuple)
            else:
                assert [row[:2] for row in found[-1]] == plain
            await session.rollback()
    await until(is_idle(filled), 2)
    assert statements.plan_of(statement) is None
    assert (name in REFUSED) == isinstance(found[0], tuple)


async def test_a_switch_turns_the_short_way_off(filled):
    statement, reader = select(S.id), filled.state.resources.reader
    with off():
        for _ in range(3):
            records = await reader.fetch(statement)
        assert not isinstance(records[0], Row)
        assert inserts.insert_plan(Shop, ShopPublic, frozenset({"name"}))
    with off("statements"):
        assert isinstance((await reader.fetch(statement))[0], Row)
        assert inserts.insert_plan(Shop, ShopPublic, frozenset({"name"})) is None


async def test_what_goes_wrong_while_a_plan_is_prepared_is_told_and_sqlalchemys(
    filled, monkeypatch, log
):
    monkeypatch.setattr(statements, "plan_of_compiled", None)
    statement, reader = select(S.name).order_by(S.id), filled.state.resources.reader
    with off():
        for _ in range(3):
            assert [row["name"] for row in await reader.fetch(statement)] == ["Corner", "Market"]
    warning = "no short way for a statement: SQLAlchemy executes it"
    assert [line["message"] for line in log.lines("WARNING")] == [warning]


class NickPublic(Dto):
    id: int
    nick: str | None = None


class NicknamePublic(Dto):
    id: int
    nick: str | None = PydanticField(None, validation_alias="nickname")


OTHER_NAMES = [
    *(select(T), select(T.id, T.nick), select(Other), select(S, T.nick).join(T)),
    union_all(select(T.id, T.nick), select(T.id, T.nick)),
    select(select(T.id, T.nick).subquery()),
]


@pytest.mark.parametrize("statement", OTHER_NAMES)
async def test_a_column_of_another_name_is_no_default_of_the_dto(filled, statement):
    for fetch in (filled.state.resources.reader.all, filled.state.resources.reader.first):
        for _ in range(3):
            with pytest.raises(TypeError, match="field nick, whose column is called nickname"):
                await fetch(NickPublic, statement)


async def test_a_label_or_an_alias_tells_which_column_is_meant(filled):
    reader = filled.state.resources.reader
    for model, statement in (
        (NickPublic, select(T.id, T.nick.label("nick")).order_by(T.id)),
        (NickPublic, select(T, T.nick.label("nick")).order_by(T.id)),
        (NicknamePublic, select(T).order_by(T.id)),
    ):
        for _ in range(3):
            rows = await reader.all(model, statement)
            assert [row.nick for row in rows] == ["Nick", "Nick", None]


async def test_what_is_returned_has_no_default_for_another_name_either(filled):
    changed = update(T).values(nick="x")
    async with open_session(filled) as session:
        for returning in (changed.returning(T), changed.returning(T.id, T.nick)):
            with pytest.raises(TypeError, match="field nick, whose column is called nickname"):
                await session.all(NickPublic, returning)
        assert await session.all(NickPublic, changed.where(T.id == -1).returning(T.id)) == []
