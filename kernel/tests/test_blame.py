"""Whose mistake a failure was: a client's is told to the client, the service's own to the log."""

from contextlib import suppress
from decimal import Decimal
from typing import Annotated

import pytest
from fastapi import Query
from pydantic import AwareDatetime
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Float,
    Integer,
    String,
    bindparam,
    func,
    literal,
    table,
    text,
)
from sqlalchemy import column as sql_column
from sqlalchemy.exc import DBAPIError
from sqlmodel import col, select

from kernel.data.models import Dto, Input
from kernel.http.dependencies import Reader, Session
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.tests.peelings.models import Peeling, PeelingPublic

USERS = table("users", sql_column("id", BigInteger), sql_column("emial", String))
BY_TITLE = select(Peeling).where(Peeling.title == bindparam("wanted_title"))
CANARY, UNKNOWN_NAME = "canary-7531", "unknown_name"


class Answer(Dto):
    text: str = ""


class Mood(Dto):
    first: str
    mood: str


def mistakes():
    """A router with a mistake at each path, once in a read and once in a write."""
    router = Router(prefix="/peels", tags=["peels"])

    def both(name, statement, **values):
        @router.get(f"/{name}")
        async def read(reader: Reader) -> Answer:
            return Answer(text=str(await reader.fetch(statement, **values)))

        @router.post(f"/{name}")
        async def write(session: Session) -> Answer:
            return Answer(text=str(await session.fetch(statement, **values)))

        @router.put(f"/{name}")
        async def by_the_orm(session: Session) -> Answer:
            return Answer(text=str((await session.exec(statement, params=values)).all()))

    both("column", select(USERS.c.id, USERS.c.emial))
    both("table", select(literal(1)).select_from(table("uesrs")))
    both("function", select(func.no_such_function(1)))
    both("syntax", text("SELEKT 1"))
    both("division", text("SELECT 1 / 0"))
    both("wrong-type", BY_TITLE, wanted_title=7531)
    both("missing", BY_TITLE)
    both("quotient", text("SELECT 1 / CAST(:zero AS int)"), zero=0)
    both("cast", text("SELECT 'abc'::int"))
    both("raise", text(f"SELECT blame('{CANARY}')"))
    return router


WORDS = {
    "column": ["emial", "42703"],
    "table": ["uesrs", "42P01"],
    "function": ["no_such_function", "42883"],
    "syntax": ["SELEKT", "42601"],
    "division": ["22012", "division by zero", "SELECT 1 / 0"],
    "quotient": ["22012", "division by zero"],
    "cast": ["22P02", "SELECT 'abc'::int"],
    "wrong-type": ["wanted_title"],
    "missing": ["wanted_title"],  # SQLAlchemy: "A value is required for bind parameter"
    "raise": ["P0001", "RaiseError"],
}


@pytest.fixture
async def blame(sql):
    await sql.execute("""CREATE FUNCTION blame(text) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'values: %', 'canary-7531'; END $$""")
    yield
    await sql.execute("DROP FUNCTION blame")


def assert_own_mistake(answer, log, words):
    assert answer.status_code == 500, answer.text
    assert "retry-after" not in answer.headers
    [line] = log.lines("ERROR")
    for word in words:
        assert word in line["exception"], line["exception"]
    assert not log.lines("WARNING")
    assert not any(word in answer.text for word in words)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("mistake", WORDS)
async def test_a_mistake_in_a_statement_is_the_services_own(mount, blame, log, method, mistake):
    words = WORDS[mistake]
    if method == "PUT" and mistake == "wrong-type":
        words = [
            "query argument $1"
        ]  # SQLAlchemy's own names of parameters do not reach the driver
    if method != "PUT" and mistake == "missing":
        words = ["no value for the statement's parameter wanted_title"]
    async with mount(mistakes()) as client:
        answer = await client.request(method, f"/peels/{mistake}")
    assert_own_mistake(answer, log, words)
    told = log.lines("ERROR")[0]["exception"]
    assert CANARY not in told.partition("statement:")[0]
    assert "7531" not in told.replace(CANARY, "")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_value_for_no_parameter_is_a_mistake(mount, log, method):
    router = Router(prefix="/peels", tags=["peels"])

    @router.get("/misspelt")
    async def read(reader: Reader) -> list[PeelingPublic]:
        return await reader.all(PeelingPublic, BY_TITLE, wanted_titel="a")

    @router.post("/misspelt")
    async def write(session: Session) -> list[PeelingPublic]:
        return await session.all(PeelingPublic, BY_TITLE, wanted_title="a", wanted_titel="a")

    async with mount(router) as client:
        answer = await client.request(method, "/peels/misspelt")
    assert_own_mistake(answer, log, ["wanted_titel", "wanted_title"])


async def test_a_parameters_own_value_need_not_be_given(mount, log):
    router = Router(prefix="/peels", tags=["peels"])
    both = bindparam("one", value=1, type_=Integer) + bindparam("two", type_=Integer)

    @router.get("/sum")
    async def read(reader: Reader) -> Answer:
        rows = [
            await reader.fetch(select(both), two=2),
            await reader.fetch(select(both), one=5, two=5),
        ]
        return Answer(text=f"{[row[0] for [row] in rows]}")

    async with mount(router) as client:
        assert (await client.get("/peels/sum")).json() == {"text": "[3, 10]"}


# Rows that are refused.


class ThingIn(Input):
    name: str | None = None
    number: int | None = None
    price: float | None = None
    owner_id: int | None = None


class NameIn(Input):
    name: str


def things():
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/peelings", status_code=201)
    async def forgets_a_column(data: NameIn, me: CurrentUser, session: Session) -> Answer:
        await session.insert(Peeling, PeelingPublic, title=data.name)
        return Answer()

    @router.post("/things", status_code=201)
    async def makes_a_thing(data: ThingIn, session: Session) -> Answer:
        connection = await session.connection()
        statement = text(
            "INSERT INTO peeled_things (name, number, price, owner_id)"
            " VALUES (:name, :number, :price, :owner_id)"
        )
        await connection.execute(statement, data.model_dump())
        return Answer()

    @router.post("/numbers", status_code=201)
    async def makes_a_number(data: ThingIn, session: Session) -> Answer:
        statement = select(literal(1)).where(bindparam("number", type_=Integer) > 0)
        await session.fetch(statement, number=data.number)
        return Answer()

    return router


@pytest.fixture
async def things_table(sql):
    await sql.execute("""CREATE TABLE peeled_things (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(10) NOT NULL UNIQUE,
        number int CHECK (number <> 13), price numeric(5, 2), owner_id bigint REFERENCES users)""")
    yield
    await sql.execute("DROP TABLE peeled_things")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("things", {"name": "x" * 11}, 422),
        ("things", {"name": None}, 422),
        ("things", {"name": "a\0b"}, 422),
        ("things", {"name": "a", "number": 2**31}, 422),
        ("things", {"name": "a", "number": 2**70}, 422),
        ("things", {"name": "a", "price": 1e9}, 422),
        ("things", {"name": "a", "number": 13}, 422),
        ("things", {"name": "a", "owner_id": 10**12}, 409),
        ("numbers", {"number": 2**31}, 422),
        ("numbers", {"number": -(2**63) - 1}, 422),
    ],
    ids=str,
)
async def test_a_value_that_a_client_has_sent_is_the_clients(
    mount, things_table, log, path, body, status
):
    async with mount(things()) as client:
        answer = await client.post(f"/peels/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert not log.lines("ERROR", "WARNING")


@pytest.mark.parametrize(("kind", "value"), [("real", "1e300"), ("numeric", "1E-200000")])
async def test_a_number_that_its_type_cannot_hold_is_the_clients(mount, log, kind, value):
    router = Router(prefix="/peels", tags=["peels"])
    statement = text(f"SELECT CAST(:value AS {kind})")

    @router.get("/number")
    async def reads_a_number(reader: Reader, value: Decimal) -> Answer:
        number = float(value) if kind == "real" else value
        return Answer(text=f"{await reader.fetch(statement, value=number)}")

    async with mount(router) as client:
        answer = await client.get("/peels/number", params={"value": value})
    assert answer.status_code == 422, answer.text
    assert not log.lines("ERROR", "WARNING")


async def test_a_column_that_the_handler_forgot_is_not_the_clients(mount, alice, log):
    async with mount(things()) as client:
        answer = await client.post("/peels/peelings", json={"name": "a"}, headers=alice.headers)
    assert_own_mistake(answer, log, ["23502", "owner_id", "INSERT INTO peelings"])


async def test_a_sequence_that_is_behind_its_table_is_not_the_clients(mount, alice, sql, log):
    body = {"title": "Soup"}
    async with mount(things()) as client:
        client.headers.update(alice.headers)
        assert (await client.post("/peelings", json=body)).status_code == 201
        await sql.execute("ALTER SEQUENCE peelings_id_seq RESTART WITH 1")
        answer = await client.post("/peelings", json=body)
    assert_own_mistake(answer, log, ["23505", "pk_peelings", "INSERT INTO peelings"])


async def test_a_key_that_the_statement_gives_is_the_clients(mount, alice, sql):
    """Whether the database makes it is said by the statement: an integer key may be natural."""
    router = Router(prefix="/peels", tags=["peels"])
    statement = text("""INSERT INTO peelings (id, title, owner_id) OVERRIDING SYSTEM VALUE
        VALUES (:id, 'natural', :me)""")

    @router.post("/{number}", status_code=201)
    async def make(number: int, me: CurrentUser, session: Session) -> Answer:
        await session.exec(statement, params={"id": number, "me": me.id})
        return Answer()

    async with mount(router) as client:
        client.headers.update(alice.headers)
        statuses = [(await client.post("/peels/77")).status_code for _ in range(2)]
    assert statuses == [201, 409]


async def test_a_sequence_that_is_behind_is_found_whatever_the_path_is_called(
    mount, alice, sql, log
):
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/{id}", status_code=201)
    async def make(id: int, me: CurrentUser, session: Session) -> PeelingPublic:  # noqa: A002
        return await session.insert(Peeling, PeelingPublic, title=f"{id}", owner_id=me.id)

    async with mount(router) as client:
        client.headers.update(alice.headers)
        assert (await client.post("/peels/1")).status_code == 201
        await sql.execute("ALTER SEQUENCE peelings_id_seq RESTART WITH 1")
        answer = await client.post("/peels/1")
    assert_own_mistake(answer, log, ["23505", "pk_peelings"])


UPSERT = """INSERT INTO peeled_things (name, number)
    SELECT name, 1 FROM unnest(CAST(:names AS text[])) name
    ON CONFLICT (name) DO UPDATE SET number = 2"""
MERGE = """MERGE INTO peeled_things USING unnest(CAST(:names AS text[])) given ON name = given
    WHEN MATCHED THEN UPDATE SET number = 2"""
TWO_ROWS = "SELECT (SELECT name FROM unnest(CAST(:names AS text[])) name)"


@pytest.mark.parametrize(
    ("statement", "status"), [(UPSERT, 422), (MERGE, 422), (TWO_ROWS, 500)], ids=str
)
async def test_a_row_that_is_given_twice_is_the_clients(
    mount, things_table, sql, log, statement, status
):
    await sql.execute("INSERT INTO peeled_things (name) VALUES ('a'), ('b')")
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/names")
    async def give(names: Annotated[list[str], Query()], session: Session) -> Answer:
        values = text(statement).bindparams(bindparam("names", type_=ARRAY(String)))
        await session.exec(values, params={"names": names})
        return Answer()

    async with mount(router) as client:
        answer = await client.post("/peels/names", params={"names": ["a"]})
        assert answer.status_code == 200, answer.text
        answer = await client.post("/peels/names", params={"names": ["b", "b"]})
    assert answer.status_code == status, answer.text
    assert len(log.lines("ERROR")) == (status == 500)
    assert (
        await sql.fetchval("SELECT count(*) FROM peeled_things WHERE name = 'b' AND number = 2")
        == 0
    )


MISSING = "a value refers to a row that is missing"
STATEMENTS = {
    "INSERT INTO peeled_things (name, owner_id) VALUES ('a', :key)": MISSING,
    "UPDATE peeled_things SET owner_id = :key + 10": MISSING,
    'update only "public"."peeled_things" set owner_id = :key + 10': MISSING,
    "DELETE FROM peeled_owners WHERE id > :key - 10": "rows of peeled_things still refer to it",
    "UPDATE peeled_owners SET id = :key + 10": "rows of peeled_things still refer to it",
    "WITH gone AS (DELETE FROM peeled_owners WHERE id > :key - 10) SELECT": (
        f"{MISSING}, or is still referred to"
    ),
}


@pytest.mark.parametrize(("statement", "message"), STATEMENTS.items(), ids=STATEMENTS)
async def test_a_broken_reference_tells_which_side_is_missing(mount, sql, statement, message):
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/references")
    async def refer(data: ThingIn, session: Session) -> Answer:
        await session.exec(text(statement), params={"key": data.number})
        return Answer()

    await sql.execute("""CREATE TABLE peeled_owners (id bigint PRIMARY KEY);
        CREATE TABLE peeled_things (name text, owner_id bigint REFERENCES peeled_owners);
        INSERT INTO peeled_owners VALUES (1); INSERT INTO peeled_things VALUES ('b', 1)""")
    try:
        async with mount(router) as client:
            answer = await client.post("/peels/references", json={"number": 7})
    finally:
        await sql.execute("DROP TABLE peeled_things, peeled_owners")
    assert (answer.status_code, answer.json()["message"]) == (409, message)


async def test_a_check_that_refuses_a_value_is_named(mount, things_table):
    async with mount(things()) as client:
        answer = await client.post("/peels/things", json={"name": "a", "number": 13})
    assert answer.json()["constraint"] == "peeled_things_number_check"


async def test_a_check_in_an_operation_that_takes_nothing_is_the_services_own(
    mount, things_table, log
):
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/thirteen")
    async def thirteen(session: Session) -> Answer:
        await session.exec(text("INSERT INTO peeled_things (name, number) VALUES ('a', 13)"))
        return Answer()

    async with mount(router) as client:
        answer = await client.post("/peels/thirteen")
    assert_own_mistake(answer, log, ["23514", "peeled_things_number_check"])


async def test_a_value_that_sqlalchemy_cannot_process_is_not_told(mount, log):
    router = Router(prefix="/peels", tags=["peels"])
    statement = select(bindparam("flag", type_=Boolean))

    @router.get("/flag")
    async def read(reader: Reader) -> Answer:
        return Answer(text=f"{await reader.fetch(statement, flag=CANARY)}")

    @router.put("/flag")
    async def by_the_orm(session: Session) -> Answer:
        return Answer(text=f"{(await session.exec(statement, params={'flag': CANARY})).all()}")

    async with mount(router) as client:
        for method in ("GET", "PUT"):
            answer = await client.request(method, "/peels/flag")
            assert answer.status_code == 500
            assert "TypeError" in log.lines("ERROR")[-1]["exception"]
    assert CANARY not in str(log.lines())


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH"])
async def test_a_moment_beyond_the_last_year_is_the_clients(mount, log, sql, alice, method):
    router = Router(prefix="/peels", tags=["peels"])
    statement = select(Peeling.id).where(Peeling.created_at == bindparam("at"))

    @router.get("/moment")
    async def read(reader: Reader, at: AwareDatetime) -> Answer:
        return Answer(text=f"{await reader.fetch(statement, at=at)}")

    @router.post("/moment")
    async def write(session: Session, at: AwareDatetime) -> Answer:
        return Answer(text=f"{await session.fetch(statement, at=at)}")

    @router.put("/moment")
    async def by_the_orm(session: Session, at: AwareDatetime) -> Answer:
        return Answer(text=f"{(await session.exec(statement, params={'at': at})).all()}")

    @router.patch("/moment")
    async def by_its_flush(session: Session, at: AwareDatetime) -> Answer:
        (await session.get_one(Peeling, 1)).created_at = at
        return Answer(text="changed")

    await sql.execute("INSERT INTO peelings (owner_id, title) VALUES ($1, 'Soup')", alice.user_id)
    async with mount(router) as client:
        for at, status in (("2030-01-01T00:00:00+05:00", 200), ("9999-12-31T23:00:00-05:00", 422)):
            answer = await client.request(method, "/peels/moment", params={"at": at})
            assert answer.status_code == status, answer.text
    assert not log.lines("ERROR", "WARNING")


VALUES = {
    "enum": ("SELECT CAST(:value AS peeled_mood)", "$9"),
    "enum, too": ("SELECT CAST(:value AS peeled_mood)", "$1"),
    "regular expression": ("SELECT 'a' ~ :value", "("),
    "pattern": ("SELECT 'a' LIKE :value", "\\"),
    "range": ("SELECT CAST(:value AS int4range)", "[9,1]"),
    "search": ("SELECT to_tsquery(:value)", "canary & & ("),
    "zone": ("SELECT now() AT TIME ZONE :value", "Nowhere/canary"),
    "date": ("SELECT CAST(CAST(:value AS text) AS date)", "canary"),
    "NUL": ("SELECT CAST(:value AS text)", "a\0b"),
}


@pytest.mark.parametrize("what", VALUES)
async def test_a_value_that_the_database_cannot_read_is_the_clients(mount, sql, log, what):
    template, value = VALUES[what]
    statement = text(template).bindparams(bindparam("value", type_=String))
    router = Router(prefix="/peels", tags=["peels"])

    @router.get("/read")
    async def read(reader: Reader, value: str) -> Answer:
        return Answer(text=f"{await reader.fetch(statement, value=value)}")

    @router.get("/snapshot")
    async def read_in_a_snapshot(reader: Reader, value: str) -> Answer:
        async with reader.snapshot() as snapshot:
            return Answer(text=f"{await snapshot.fetch(statement, value=value)}")

    @router.get("/stream")
    async def read_in_a_stream(reader: Reader, value: str) -> Answer:
        rows = [row async for row in reader.stream(Answer, statement, value=value)]
        return Answer(text=f"{rows}")

    @router.post("/write")
    async def write(session: Session, value: str) -> Answer:
        return Answer(text=f"{await session.fetch(statement, value=value)}")

    @router.put("/write")
    async def by_the_orm(session: Session, value: str) -> Answer:
        return Answer(text=f"{(await session.exec(statement, params={'value': value})).all()}")

    await sql.execute("CREATE TYPE peeled_mood AS ENUM ('sad')")
    try:
        async with mount(router) as client:
            for method, path in (
                *(("GET", each) for each in ("read", "snapshot", "stream")),
                *((method, "write") for method in ("POST", "PUT")),
            ):
                answer = await client.request(method, f"/peels/{path}", params={"value": value})
                assert answer.status_code == 422, (method, path, answer.text)
    finally:
        await sql.execute("DROP TYPE peeled_mood")
    assert not log.lines("ERROR", "WARNING")
    assert "canary" not in str(log.lines())


async def test_more_values_than_a_statement_holds_are_the_clients(mount, log):
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/many")
    async def many(ids: list[int], session: Session) -> Answer:
        await session.exec(select(Peeling).where(col(Peeling.id).in_(ids)))
        return Answer()

    async with mount(router) as client:
        answer = await client.post("/peels/many", json=[*range(40_000)])
    assert answer.status_code == 422
    assert not log.lines("ERROR")


async def test_a_write_through_the_reader_is_a_mistake(mount, log):
    router = Router(prefix="/peels", tags=["peels"])

    @router.get("/update")
    async def update(reader: Reader) -> Answer:
        await reader.fetch(text("UPDATE peelings SET title = 'x'"))
        return Answer()

    async with mount(router) as client:
        answer = await client.get("/peels/update")
        assert client.app.state.resources.reader.in_use() == 0
    assert_own_mistake(answer, log, ["25006", "UPDATE peelings"])


async def test_an_error_says_its_parts_and_never_a_value_of_another(mount, alice, log, sql):
    router = Router(prefix="/peels", tags=["peels"])

    @router.post("/group")
    async def group() -> Answer:
        raise ExceptionGroup("several", [NameError(UNKNOWN_NAME), ValueError(CANARY)])

    @router.post("/circle")
    async def circle() -> Answer:
        error = ValueError(CANARY)
        raise error from error

    @router.post("/pending")
    async def pending(me: CurrentUser, session: Session) -> Answer:
        session.add(Peeling(title="x", owner_id=CANARY))
        with suppress(DBAPIError):
            await session.flush()
        await session.exec(select(Peeling))
        return Answer()

    async with mount(router) as client:
        for path, word in (
            ("group", UNKNOWN_NAME),
            ("circle", "ValueError"),
            ("pending", "PendingRollbackError"),
        ):
            answer = await client.post(f"/peels/{path}", headers=alice.headers)
            assert answer.status_code == 500
            assert word in log.lines("ERROR")[-1]["exception"]
    assert CANARY not in "".join(line["message"] for line in log.lines("ERROR"))
    for line in log.lines("ERROR"):
        assert CANARY not in line["exception"]


# What passes.


async def test_a_type_that_a_migration_made_anew_is_known_at_the_next_attempt(mount, sql):
    await sql.execute("CREATE TYPE peeled_mood AS ENUM ('sad')")
    router = Router(prefix="/peels", tags=["peels"])
    statement = text(
        "SELECT CAST(CAST('sad' AS peeled_mood) AS text) AS first,"
        " CAST('sad' AS peeled_mood) AS mood"
    )

    @router.get("/mood")
    async def read(reader: Reader) -> Answer:
        return Answer(text=f"{(await reader.fetch(statement))[0][0]}")

    @router.post("/mood")
    async def write(session: Session) -> Answer:
        return Answer(text=f"{(await session.fetch(statement))[0][0]}")

    @router.put("/mood")
    async def by_the_orm(session: Session) -> Answer:
        return Answer(text=f"{(await session.exec(statement)).one()[0]}")

    @router.get("/mood/snapshot")
    async def read_in_a_snapshot(reader: Reader) -> Answer:
        async with reader.snapshot() as snapshot:
            return Answer(text=f"{(await snapshot.fetch(statement))[0][0]}")

    @router.get("/mood/stream")
    async def read_in_a_stream(reader: Reader) -> Answer:
        [row] = [row async for row in reader.stream(Mood, statement)]
        return Answer(text=row.first)

    ways = [
        *(("GET", ""), ("POST", ""), ("PUT", ""), ("GET", "/snapshot"), ("GET", "/stream")),
        ("GET", "/stream"),
    ]
    async with mount(router, pool_size=1, read_pool_size=1) as client:
        for _ in range(3):
            for method, path in ways:
                answer = await client.request(method, f"/peels/mood{path}")
                assert (answer.status_code, answer.json()) == (200, {"text": "sad"})
            await sql.execute(
                "DROP TYPE peeled_mood; CREATE TYPE peeled_mood AS ENUM ('happy', 'sad')"
            )
    await sql.execute("DROP TYPE peeled_mood")


async def test_a_read_that_a_standby_has_cancelled_is_run_again(mount, sql):
    """A standby's conflict with what it replays has the code of a serialization failure."""
    await sql.execute("""CREATE FUNCTION conflict(often float) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN
            IF random() < often THEN RAISE 'conflict' USING ERRCODE = '40001'; END IF;
            RETURN 1;
        END $$""")
    router = Router(prefix="/peels", tags=["peels"])
    statement = select(func.conflict(bindparam("often", type_=Float)))

    @router.get("/conflict")
    async def read(reader: Reader, often: float) -> Answer:
        return Answer(text=f"{(await reader.fetch(statement, often=often))[0][0]}")

    async with mount(router) as client:
        answers = [await client.get("/peels/conflict?often=0.5") for _ in range(100)]
        always = await client.get("/peels/conflict?often=1")
    await sql.execute("DROP FUNCTION conflict")
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) > 70  # of three attempts, seven eighths; of one, a half
    assert (always.status_code, always.json()["reason"]) == (503, "slow")
    assert "retry-after" in always.headers
