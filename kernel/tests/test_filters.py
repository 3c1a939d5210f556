"""A list is filtered by what its model of query parameters declares, and by nothing else."""

import gc
import itertools
import re
import urllib.parse
from collections import deque
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum as PythonEnum
from functools import partial
from operator import itemgetter
from typing import Annotated, Any, Literal, NewType, get_args
from uuid import UUID

import pytest
from fastapi import Depends, FastAPI, Query
from fastapi.routing import iter_route_contexts
from pydantic import AliasChoices, BaseModel, Field, Json
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Double,
    Enum,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    TypeDecorator,
    Uuid,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable
from sqlmodel import Field as TableField
from sqlmodel import UTCDateTime
from typing_extensions import TypeAliasType

from kernel.data.filters import SETS_KEPT, Filter, _filtered
from kernel.data.models import Dto, Line, Text  # noqa: F401  # of the example
from kernel.data.paging import Page, Pager
from kernel.data.resources import resources_of
from kernel.data.values import Amount, Day, RowId, Timestamp, Whole
from kernel.fast.planning import NeedsFastAPI, steps_of
from kernel.fast.statements import plan_of
from kernel.http.dependencies import Paging, Reader, Search, Session
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.settings import ROOT
from kernel.testing.switches import needs


class Mood(PythonEnum):
    GLAD = "glad"
    CALM = "calm"


class Reversed(TypeDecorator[str]):
    """A text that the database has from back to front."""

    impl = String(4)
    cache_ok = True

    def process_bind_param(self, value, _):
        return None if value is None else value[::-1]

    def process_result_value(self, value, _):
        return None if value is None else value[::-1]


Status = Literal["open", "paid", "void"]
tables = MetaData()
TASKS = Table(
    "peeled_tasks",
    tables,
    Column("id", BigInteger, primary_key=True),
    Column("status", String(4)),
    Column("due", Date),
    Column("seen_at", UTCDateTime()),
    Column("amount", Numeric(5, 2)),
    Column("rank", SmallInteger),
    Column("owner_id", Integer),
    Column("weight", Double),
    Column("key", Uuid),
    Column("is_done", Boolean),
    Column("mood", Enum(Mood, name="peeled_mood")),
    Column("word", Reversed),
    Column("rate_min", Integer),
)
ALL = select(TASKS)
PLAIN = select(*[column for column in TASKS.c if column.name not in {"mood", "word"}])
SOME = select(TASKS.c.id, (TASKS.c.rank * 2).label("twice"))


class TaskPublic(Dto):
    id: int
    status: str | None
    due: date | None


class TaskFilter(Filter):
    id: list[RowId] | None = None
    status: list[Status] | None = None
    due: Day | None = None
    due_min: Day | None = None
    due_before: Day | None = None
    due_is_null: bool | None = None
    seen_at: list[Timestamp] | None = None
    seen_at_after: Timestamp | None = None
    seen_at_max: Timestamp | None = None
    amount_min: Amount | None = None
    amount_max: Amount | None = None
    rank: Whole | None = None
    rank_after: Whole | None = None
    owner_id: RowId | None = None
    owner_id_is_null: bool | None = None
    weight_max: float | None = None
    key: list[UUID] | None = None
    is_done: bool | None = None
    mood: list[Mood] | None = None
    word: list[Line] | None = None
    word_max: Line | None = None
    rate_min: Whole | None = None
    rate_min_min: Whole | None = None


Order = Literal["id", "-id", "status,-id", "-due,status", "due,-seen_at,id"]
router = Router(prefix="/peeled_tasks")


@router.get("")
async def list_tasks(
    reader: Reader,
    paging: Paging,
    filters: Annotated[TaskFilter, Query()],
    q: Search = None,
    order: Order = "id",
) -> Page[TaskPublic]:
    tasks = filters.apply(ALL)
    return await paging.fetch(reader, TaskPublic, tasks, order, **filters.values())


MOMENT = datetime(2030, 1, 1, tzinfo=UTC)
LETTERS = "abcd"


def task(n: int) -> dict[str, Any]:
    return {
        "id": n,
        "status": [None, "open", "paid", "void"][n % 4],
        "due": None if n % 5 == 0 else date(2030, 1, 1 + n % 7),
        "seen_at": None if n % 7 == 0 else MOMENT + timedelta(hours=n % 6),
        "amount": None if n % 6 == 0 else Decimal(n % 9) / 4,
        "rank": n % 3 - 1,
        "owner_id": None if n % 8 == 0 else n % 4 + 1,
        "weight": n / 2,
        "key": UUID(int=n % 5),
        "is_done": [None, True, False][n % 3],
        "mood": [None, Mood.GLAD, Mood.CALM][n % 3],
        "word": f"{LETTERS[n % 5 - 1]}x" if n % 5 else None,
        "rate_min": n % 3,
    }


ROWS = [task(n) for n in range(1, 61)]


def stored(row):
    """What the database has of it."""
    mood, word = row["mood"], row["word"]
    return [*{**row, "mood": mood and mood.name, "word": word and word[::-1]}.values()]


@pytest.fixture
async def tasks(sql):
    """A table that no slice has."""
    await sql.execute("CREATE TYPE peeled_mood AS ENUM ('GLAD', 'CALM')")
    await sql.execute(str(CreateTable(TASKS).compile(dialect=postgresql.dialect())))
    places = ", ".join(f"${n}" for n in range(1, len(TASKS.c) + 1))
    await sql.reload_schema_state()
    await sql.executemany(f"INSERT INTO peeled_tasks VALUES ({places})", map(stored, ROWS))
    yield
    await sql.execute("DROP TABLE peeled_tasks; DROP TYPE peeled_mood")


@pytest.fixture
async def client(tasks, mount):
    async with mount(router) as client:
        yield client


async def walk(client, limit=100, **params):
    """The ids on all pages."""
    seen, cursor = [], {}
    while cursor is not None:
        answer = await client.get("/peeled_tasks", params={"limit": limit, **params, **cursor})
        assert answer.status_code == 200, answer.text
        seen += [row["id"] for row in answer.json()["items"]]
        cursor = answer.json()["next_cursor"]
        cursor = cursor and {"cursor": cursor}
    return seen


def ids(holds):
    return [row["id"] for row in ROWS if holds(row)]


def known(name, compare):
    return lambda row: row[name] is not None and compare(row[name])


QUERIES = {
    "": lambda row: True,
    "id=7": lambda row: row["id"] == 7,
    "id=7&id=9&id=999": lambda row: row["id"] in {7, 9},
    "status=open": lambda row: row["status"] == "open",
    "status=open&status=void": lambda row: row["status"] in {"open", "void"},
    "due=2030-01-03": lambda row: row["due"] == date(2030, 1, 3),
    "due_min=2030-01-03": known("due", lambda due: due >= date(2030, 1, 3)),
    "due_before=2030-01-03": known("due", lambda due: due < date(2030, 1, 3)),
    "due_is_null=true": lambda row: row["due"] is None,
    "due_is_null=false": lambda row: row["due"] is not None,
    "seen_at=2030-01-01T01:00:00Z&seen_at=2030-01-01T04:00:00%2B02:00": known(
        "seen_at", lambda at: at.hour in {1, 2}
    ),
    "seen_at_after=2030-01-01T02:00:00Z": known("seen_at", lambda at: at.hour > 2),
    "seen_at_max=2030-01-01T02:00:00Z": known("seen_at", lambda at: at.hour <= 2),
    "amount_min=0.75&amount_max=1.5": known("amount", lambda amount: 0.75 <= amount <= 1.5),
    "amount_min=9999999999.99": lambda row: False,
    "rank=-1": lambda row: row["rank"] == -1,
    "rank=40000": lambda row: False,
    "rank_after=-1": lambda row: row["rank"] > -1,
    "owner_id=4": lambda row: row["owner_id"] == 4,
    "owner_id=9223372036854775807": lambda row: False,
    "owner_id_is_null=1": lambda row: row["owner_id"] is None,
    "weight_max=3.5": lambda row: row["weight"] <= 3.5,
    f"key={UUID(int=1)}&key={UUID(int=3)}": lambda row: row["key"].int in {1, 3},
    "is_done=false": lambda row: row["is_done"] is False,
    "mood=glad": lambda row: row["mood"] is Mood.GLAD,
    "mood=glad&mood=calm": lambda row: row["mood"] is not None,
    "word=ax": lambda row: row["word"] == "ax",
    "word=ax&word=cxabc": lambda row: row["word"] == "ax",
    "rate_min=1": lambda row: row["rate_min"] == 1,
    "rate_min_min=1": lambda row: row["rate_min"] >= 1,
}


@pytest.mark.parametrize("query", QUERIES)
async def test_a_list_holds_the_rows_for_which_the_filter_holds(client, query):
    params = urllib.parse.parse_qs(query)
    expected = ids(QUERIES[query])
    for _ in range(3):  # SQLAlchemy's way, and then the short one
        assert await walk(client, **params) == expected


async def test_all_fields_of_a_filter_hold_together(client):
    singles = [query for query in QUERIES if query]
    for queries in [
        *zip(singles, singles[7:], strict=False),
        *zip(singles, singles[3:], singles[11:], strict=False),
    ]:
        params: dict[str, list[str]] = {}
        for query in queries:
            params |= urllib.parse.parse_qs(query)
        names = [each.partition("=")[0] for query in queries for each in query.split("&")]
        if len({*names}) < sum(len({n.partition("=")[0] for n in q.split("&")}) for q in queries):
            continue
        expected = ids(lambda row, queries=queries: all(QUERIES[each](row) for each in queries))
        assert await walk(client, **params) == expected, queries


@pytest.mark.parametrize("order", get_args(Order))
async def test_pages_of_a_filtered_list_are_complete_in_every_order(client, order):
    whole = await walk(client, order=order, status=["open", "paid"], due_min="2030-01-02")
    assert sorted(whole) == ids(
        lambda row: row["status"] in {"open", "paid"} and row["due"] and row["due"].day > 1
    )
    for limit in (1, 4):
        query = {"status": ["open", "paid"], "due_min": "2030-01-02"}
        assert await walk(client, limit, order=order, **query) == whole


def place(row, order):
    """What a row is sorted by: nulls are behind all values."""
    parts = []
    for name in order.split(","):
        value = row[name.lstrip("-")]
        parts.append((value is None, 0 if value is None else value))
    return parts


@pytest.mark.parametrize("order", get_args(Order))
async def test_each_column_of_an_order_counts(client, order):
    rows = sorted(ROWS, key=itemgetter("id"), reverse=order.split(",")[-1].startswith("-"))
    for name in reversed(order.split(",")):
        rows.sort(key=partial(place, order=name.lstrip("-")), reverse=name.startswith("-"))
    assert await walk(client, 7, order=order) == [row["id"] for row in rows]


async def test_a_cursor_is_a_place_and_stays_good_with_another_filter(client):
    cursor = (await client.get("/peeled_tasks?limit=10&status=open")).json()["next_cursor"]
    last = ids(QUERIES["status=open"])[9]
    answer = await client.get(
        "/peeled_tasks", params={"cursor": cursor, "status": "paid", "limit": 100}
    )
    expected = [n for n in ids(lambda row: row["status"] == "paid") if n > last]
    assert [row["id"] for row in answer.json()["items"]] == expected


@pytest.fixture
def reader(app):
    return resources_of(app).reader


async def test_rows_in_the_order_of_a_column_of_any_type_are_whole(client):
    page = (await client.get("/peeled_tasks?order=-due,status&due_is_null=false&limit=2")).json()
    last = date(2030, 1, 7)
    rows = sorted((r for r in ROWS if r["due"] == last and r["status"]), key=itemgetter("status"))
    assert page["items"] == [
        {"id": row["id"], "status": row["status"], "due": "2030-01-07"} for row in rows[:2]
    ]


async def test_rows_of_texts_in_the_order_of_another_type_are_whole(tasks, reader, alice):
    class Words(Dto):
        status: str
        word: str

    statement = TaskFilter(status=["open"]).apply(
        select(TASKS.c.word, TASKS.c.status, TASKS.c.due, TASKS.c.id)
    )
    page = await Pager(3, None, [b"key"], {"path": "/x", "query_string": b""}).fetch(
        reader, Words, statement, "due", **TaskFilter(status=["open"]).values()
    )
    assert {row.status for row in page.items} == {"open"}


@pytest.mark.house
async def test_the_example_of_the_manual_works(mount, tasks, alice):
    manual = (ROOT / "docs/guide.md").read_text()
    (code,) = re.findall(
        r"^```python\n(class InvoiceFilter.*?)^```$", manual, re.DOTALL | re.MULTILINE
    )
    renamed = TASKS.c.owner_id.label("customer_id"), TASKS.c.seen_at.label("paid_at")
    own = select(TASKS.c.id, TASKS.c.status, TASKS.c.due, *renamed)
    names = {
        **globals(),
        "Field": TableField,
        "InvoicePublic": TaskPublic,
        "OWN": own.where(-TASKS.c.id < bindparam("owner_id")),
        "router": Router(prefix="/peeled_invoices"),
    }
    exec(compile(code, "docs/guide.md", "exec"), names)  # noqa: S102  # it is ours
    async with mount(names["router"]) as client:
        client.headers.update(alice.headers)
        answer = await client.get(
            "/peeled_invoices?status=open&due_min=2030-01-03&order=due&limit=100"
        )
        assert answer.status_code == 200
        found = [row["id"] for row in answer.json()["items"]]
        holds = known("due", lambda due: due >= date(2030, 1, 3))
        assert sorted(found) == ids(lambda row: row["status"] == "open" and holds(row))
        assert (await client.get("/peeled_invoices?stauts=open")).status_code == 422


# What is no filter.


@pytest.mark.parametrize(
    ("query", "name", "kind"),
    [
        ("stauts=open", "stauts", "extra_forbidden"),
        ("limits=1&limit=1", "limits", "extra_forbidden"),
        ("status_is_null=true", "status_is_null", "extra_forbidden"),
        ("filters=1", "filters", "extra_forbidden"),
        ("=", "", "extra_forbidden"),
        ("status=closed", "status", "literal_error"),
        ("status=open&status=", "status", "literal_error"),
        ("rank=1_0", "rank", "value_error"),
        ("rank=+1", "rank", "value_error"),
        ("rank=1.0", "rank", "value_error"),
        ("rank=", "rank", "value_error"),
        ("rank=" + "9" * 30, "rank", "less_than_equal"),
        ("rank=" + "9" * 5000, "rank", "value_error"),
        ("owner_id=0", "owner_id", "greater_than_equal"),
        ("id=1&id=x", "id", "value_error"),
        ("due=2030-02-30", "due", "date_from_datetime_parsing"),
        ("due=0", "due", "value_error"),
        ("due_is_null=perhaps", "due_is_null", "bool_parsing"),
        ("seen_at_after=2030-01-01T00:00:00", "seen_at_after", "timezone_aware"),
        ("key=1", "key", "uuid_parsing"),
        ("word=a%00", "word", "value_error"),
    ],
)
async def test_what_is_no_filter_is_refused_by_its_name(client, query, name, kind):
    answer = await client.get(f"/peeled_tasks?{query}")
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["loc"][:2], error["type"]) == (["query", name], kind)


async def test_all_that_is_wrong_is_told_at_once(client):
    answer = await client.get("/peeled_tasks?limit=0&order=x&rank=x&more=1")
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 4


async def test_who_is_not_signed_in_learns_nothing_of_the_filter(mount, tasks):
    private = Router()

    @private.get("/private")
    async def private_tasks(
        me: CurrentUser, filters: Annotated[TaskFilter, Query()]
    ) -> dict[str, str]:
        raise AssertionError(me, filters)

    async with mount(private) as client:
        assert (await client.get("/private?more=1")).status_code == 401


async def test_two_filters_of_an_operation_know_each_other(mount):
    class OwnerFilter(Filter):
        name: Line | None = Field(None, alias="owner")

    both = Router()

    async def limited(most: int = 5) -> int:
        return most

    @both.get("/both")
    async def both_filters(
        tasks: Annotated[TaskFilter, Query()],
        owners: Annotated[OwnerFilter | None, Query()],
        most: Annotated[int, Depends(limited)],
    ) -> list[Any]:
        return [tasks.rank, owners and owners.name, most]

    async with mount(both) as client:
        assert (await client.get("/both?rank=1&owner=%20x%20&most=3")).json() == [1, "x", 3]
        answer = await client.get("/both?rank=1&name=x")
        assert [each["loc"] for each in answer.json()["errors"]] == [["query", "name"]] * 2


async def test_a_write_may_have_a_filter(mount, alice, tasks):
    writes = Router()

    @writes.delete("/peeled_tasks")
    async def delete_tasks(session: Session, filters: Annotated[TaskFilter, Query()]) -> int:
        return len(await session.fetch(filters.apply(ALL), **filters.values()))

    async with mount(writes) as client:
        assert (await client.delete("/peeled_tasks?rank=1&id=2&id=5")).json() == 2
        assert (await client.delete("/peeled_tasks?rank=1&limit=5")).status_code == 422


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (SOME, "TaskFilter has a field for status, a column that the statement does not select"),
        (select(TASKS.c.status, func.upper(TASKS.c.status).label("status")), "two columns"),
    ],
)
def test_a_filter_for_no_column_is_the_services_own_mistake(statement, told):
    with pytest.raises(TypeError, match=told):
        TaskFilter(status=["open"]).apply(statement)


async def test_what_a_statement_computes_can_be_filtered_by(tasks, reader):
    class TwiceFilter(Filter):
        twice: Whole | None = None
        twice_after: Whole | None = None

    for filters, holds in (
        (TwiceFilter(twice=2), lambda row: row["rank"] == 1),
        (TwiceFilter(twice_after=-1), lambda row: row["rank"] > -1),
    ):
        rows = await reader.fetch(filters.apply(SOME), **filters.values())
        assert sorted(row["id"] for row in rows) == ids(holds)


async def test_a_text_that_is_too_long_for_its_column_finds_nothing(tasks, reader):
    class TextFilter(Filter):
        status: list[str] | None = None
        status_min: str | None = None

    for filters, count in (
        (TextFilter(status=["openly"]), 0),
        (TextFilter(status=["openly", "open"]), len(ids(QUERIES["status=open"]))),
        (TextFilter(status_min="voidness"), 0),
    ):
        assert len(await reader.fetch(filters.apply(ALL), **filters.values())) == count


OwnerId = NewType("OwnerId", RowId)
Rate = TypeAliasType("Rate", OwnerId)


class CollectionFilter(Filter):
    id: frozenset[RowId] = frozenset()
    rank: tuple[Whole, ...] | None = None
    owner_id: set[OwnerId] | None = None
    status: Sequence[Status] = ()
    rate_min: Rate | None = None


async def test_a_collection_of_any_kind_is_for_the_rows_with_one_of_its_values(mount, tasks):
    router = Router(prefix="/collected", tags=["peels"])

    @router.get("")
    async def collected(reader: Reader, filters: Annotated[CollectionFilter, Query()]) -> list[int]:
        rows = await reader.fetch(filters.apply(PLAIN), **filters.values())
        return sorted(row["id"] for row in rows)

    async with mount(router) as client:
        for query, holds in (
            ("", lambda _: True),
            ("id=1&id=2&id=3", lambda row: row["id"] in {1, 2, 3}),
            ("rank=1&rank=0", lambda row: row["rank"] in {0, 1}),
            ("owner_id=1&owner_id=2", lambda row: row["owner_id"] in {1, 2}),
            ("status=open&status=paid", lambda row: row["status"] in {"open", "paid"}),
            ("rate_min=1", lambda row: row["rate_min"] == 1),
        ):
            answer = await client.get(f"/collected?{query}")
            assert answer.json() == ids(holds), query
        for wrong in ("id=0", "rank=1_0", "owner_id=x", "rate_min=1.0"):
            assert (await client.get(f"/collected?{wrong}")).status_code == 422


def test_a_deque_is_a_collection_too():
    class RankFilter(Filter):
        rank: deque[Whole] = deque()  # noqa: RUF012  # pydantic's own

    filters = RankFilter(rank=[0, 1])
    assert [*filters.values().values()] == [[0, 1]]
    assert "= ANY (" in str(filters.apply(PLAIN))
    assert RankFilter().apply(PLAIN) is PLAIN


def test_an_empty_list_that_nobody_sent_is_no_condition():
    class StatusFilter(Filter):
        status: list[Status] = []  # noqa: RUF012  # pydantic's own

    assert StatusFilter().apply(ALL) is ALL
    assert StatusFilter().values() == {}


def test_a_question_about_nulls_is_a_bool():
    class TextFilter(Filter):
        due_is_null: str | None = None

    with pytest.raises(TypeError, match=r"TextFilter\.due_is_null is not a bool"):
        TextFilter(due_is_null="no").apply(ALL)


# What it costs.


def test_a_statement_is_made_once_for_each_set_of_fields():
    first = TaskFilter(status=["open"], due_is_null=True)
    again = TaskFilter(status=["paid", "void"], due_is_null=True)
    assert first.apply(ALL) is again.apply(ALL)
    assert first.apply(ALL) is not TaskFilter(status=["open"], due_is_null=False).apply(ALL)
    assert TaskFilter().apply(ALL) is ALL


@needs("statements")
@pytest.mark.parametrize(
    "values",
    [
        {"status": ["open"]},
        {"id": [1, 2], "due_min": date(2030, 1, 1), "due_is_null": False},
        {"key": [UUID(int=1)], "amount_max": Decimal(1), "is_done": True, "weight_max": 1.5},
        {"seen_at_after": MOMENT, "rank": 1},
    ],
)
def test_a_filter_of_plain_types_runs_straight_on_the_driver(values):
    filters = TaskFilter(**values)
    statement = filters.apply(PLAIN)
    assert [plan_of(statement) for _ in range(3)][-1].arguments(filters.values()) is not None


@needs("statements")
def test_a_list_with_an_element_of_another_type_is_sqlalchemys():
    filters = TaskFilter(status=["open"])
    statement = filters.apply(PLAIN)
    plan = [plan_of(statement) for _ in range(3)][-1]
    (name,) = filters.values()
    for values in ([None], ["open", 7], [b"open"]):
        assert plan.arguments({name: values}) is None
    moments = TaskFilter(seen_at=[MOMENT]).apply(PLAIN)  # which have a zone, or are refused
    assert [plan_of(moments) for _ in range(3)] == [None] * 3


def test_clients_who_ask_for_all_sets_of_fields_fill_no_memory():
    names = [
        "due_min",
        "due_before",
        "rank",
        "owner_id",
        "is_done",
        "weight_max",
        "due",
        "rate_min",
    ]
    values = [date(2030, 1, 1), date(2030, 1, 1), 1, 1, True, 1.5, date(2030, 1, 1), 1]
    for chosen in itertools.product((True, False), repeat=len(names)):
        TaskFilter(**dict(itertools.compress(zip(names, values, strict=True), chosen))).apply(ALL)
    assert len(_filtered[ALL]) <= SETS_KEPT


def test_a_statement_that_is_gone_keeps_nothing():
    before = len(_filtered)
    TaskFilter(rank=1).apply(select(TASKS.c.id, TASKS.c.rank))
    gc.collect()
    assert len(_filtered) == before


# The short way through such an operation.


def plan_of_operation(model):
    app, routes = FastAPI(), Router()

    @routes.get("/x")
    async def operation(filters: Annotated[model, Query()], more: str = "") -> dict[str, str]:
        return {}

    app.include_router(routes)
    (context,) = [each for each in iter_route_contexts(app.routes) if each.path_format == "/x"]
    return steps_of(context)


def test_an_operation_with_a_filter_goes_the_short_way():
    assert plan_of_operation(TaskFilter)


class Aliased(BaseModel):
    a: str = Field("", alias="b")


class Chosen(BaseModel):
    a: str = Field("", validation_alias=AliasChoices("b", "c"))


class OfJson(BaseModel):
    a: Json[list[int]] = []


class OfTuple(BaseModel):
    a: tuple[int, ...] = ()


class OfQuery(BaseModel):
    a: Annotated[str, Query(alias="b")] = ""


class Described(BaseModel):
    a: str = Query("", description="b")


class OfTable(BaseModel):
    a: int | None = TableField(None, foreign_key="users.id")


class Nested(BaseModel):
    a: Aliased | None = None


@pytest.mark.parametrize(
    "model", [Aliased, Chosen, OfJson, OfTuple, OfQuery, Described, OfTable, Nested]
)
def test_a_model_that_fastapi_may_read_otherwise_is_fastapis(model):
    with pytest.raises(NeedsFastAPI):
        plan_of_operation(model)


class Open(BaseModel, extra="allow"):
    one: int = 1
    many: list[int] | None = None


class Closed(BaseModel, extra="forbid"):
    one: int = 1
    many: list[str] = ["a"]


class Bare(BaseModel):
    one: str
    many: list[str]


both_ways = Router()


@both_ways.get("/open")
async def get_open(given: Annotated[Open, Query()], other: str = "") -> dict[str, Any]:
    return {**given.model_dump(), "other": other}


@both_ways.get("/closed")
async def get_closed(given: Annotated[Closed, Query()]) -> dict[str, Any]:
    return given.model_dump()


@both_ways.get("/bare")
async def get_bare(given: Annotated[Bare, Query()], other: list[str] | None = None) -> Any:
    return given.model_dump()


@both_ways.get("/task")
async def get_task(given: Annotated[TaskFilter, Query()], other: str = "") -> dict[str, str]:
    return {"given": repr(given), "other": other}


@pytest.mark.parametrize("path", ["/open", "/closed", "/bare", "/task"])
@pytest.mark.parametrize(
    "query",
    [
        "",
        "one=1",
        "one=1&one=2",
        "one=x&many=y",
        "many=1&many=2&one=7",
        "more=1&more=2&one=3&other=x&other=y",
        "one=&many=&more",
        "rank=1&rank=2&status=open&status=paid&word=%20ax%20",
        "ONE=1&one%20=2&%6Fne=3",
        "one=1;many=2&&many=%ff",
    ],
)
async def test_a_model_of_the_query_is_read_as_fastapi_reads_it(mount, monkeypatch, path, query):
    async with mount(both_ways) as client:
        short = await client.get(f"{path}?{query}")
        monkeypatch.setattr("kernel.fast.routing.OFF", {"plan"})
        long = await client.get(f"{path}?{query}")
    drop = ("request_id", "instance")
    bodies = [{k: v for k, v in each.json().items() if k not in drop} for each in (short, long)]
    assert (short.status_code, bodies[0]) == (long.status_code, bodies[1])


# Text.

WORDS = Table(
    "peeled_words",
    tables,
    Column("id", BigInteger, primary_key=True),
    Column("plain", String),
    Column("german", String(collation="peeled_german")),
)
SPELLED = ["Zebra", "apfel", "Äpfel", "Apfel", "zebra", "Öl", "ofen"]


class WordPublic(Dto):
    id: int
    plain: str


class WordFilter(Filter):
    german: list[str] | None = None
    german_after: str | None = None
    order: Literal["plain", "german", "-german"] = "plain"


words = Router(prefix="/peeled_words")


@words.get("")
async def list_words(
    reader: Reader, paging: Paging, filters: Annotated[WordFilter, Query()]
) -> Page[WordPublic]:
    found = filters.apply(select(WORDS))
    return await paging.fetch(reader, WordPublic, found, filters.order, **filters.values())


# Of the manual; the embedded server has no ICU.
MAKE_COLLATION = """
    DO $$ BEGIN
        CREATE COLLATION peeled_german (provider = icu, locale = 'de');
    EXCEPTION WHEN feature_not_supported THEN
        CREATE COLLATION peeled_german (provider = builtin, locale = 'C.UTF-8');
    END $$
"""


async def test_text_is_in_the_order_of_its_columns_collation(mount, sql):
    await sql.execute(MAKE_COLLATION)
    has_icu = await sql.fetchval(
        "SELECT collprovider FROM pg_collation WHERE collname = 'peeled_german'"
    )
    await sql.execute(str(CreateTable(WORDS).compile(dialect=postgresql.dialect())))
    await sql.executemany("INSERT INTO peeled_words VALUES ($1, $2, $2)", [*enumerate(SPELLED)])
    async with mount(words) as client:

        async def seen(**params):
            found, cursor = [], {}
            while cursor is not None:
                query = {"limit": 2, **params, **cursor}
                page = (await client.get("/peeled_words", params=query)).json()
                found += [row["plain"] for row in page["items"]]
                cursor = page["next_cursor"] and {"cursor": page["next_cursor"]}
            return found

        by_code = ["Apfel", "Zebra", "apfel", "ofen", "zebra", "Äpfel", "Öl"]
        in_german = ["apfel", "Apfel", "Äpfel", "ofen", "Öl", "zebra", "Zebra"]
        german = in_german if has_icu == b"i" else by_code
        assert await seen() == by_code
        assert await seen(order="german") == german
        assert await seen(order="-german") == german[::-1]
        behind = german[german.index("Äpfel") + 1 :]
        assert await seen(order="german", german_after="Äpfel") == behind
        assert await seen(german=["Äpfel", "Öl"]) == ["Äpfel", "Öl"]
    await sql.execute("DROP TABLE peeled_words; DROP COLLATION peeled_german")
