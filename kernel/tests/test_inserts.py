"""`session.insert` stores what SQLAlchemy's own INSERT stores, whichever way it goes."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from kernel.data.independent import open_session
from kernel.data.models import Dto
from kernel.fast import inserts
from kernel.testing.switches import off
from kernel.tests.statement_tables import Blank, Made, Mood, PeeledState, Shop, Thing, rows
from kernel.tests.test_statements import filled, tables, values_of  # noqa: F401  # fixtures


class ThingPublic(Dto):
    id: int
    name: str
    nick: str | None
    secret: str | None
    state: PeeledState
    mood: Mood
    data: dict[str, Any] | None
    document: dict[str, Any] | None
    tags: list[str] | None
    naive_at: datetime | None
    price: Decimal


class MadePublic(Dto):
    name: str
    status: str
    upper: str
    code: str
    token: str
    place: int


class ShopPublic(Dto):
    id: int
    name: str


class BlankPublic(Dto):
    place: int
    secret: str


class NickPublic(Dto):
    id: int
    nick: str | None


class NoColumn(Dto):
    fixed: str = "always"


LONG, SHORT = ("statements", "rows"), ()


async def stored(sql, table):
    found = await sql.fetch(f"SELECT * FROM {table} ORDER BY id DESC LIMIT 1")
    ours = {"id", "created_at", "updated_at"}
    return {name: value for name, value in found[0].items() if name not in ours}


async def insert_all(app, sql, table, model, **values):
    """What an insert gives and stores: on the long way, on the short one, and SQLAlchemy's own."""
    found = []
    for layers in (LONG, SHORT, SHORT):
        async with open_session(app) as session:
            with off(*layers):
                made = await session.insert(table, model, **values)
        found.append((made.model_dump(exclude={"id"}), await stored(sql, table.__tablename__)))
    async with open_session(app) as session:
        row = (await session.exec(insert(table).values(**values).returning(table))).scalar()
        made = model.model_validate(row, from_attributes=True)
    found.append((made.model_dump(exclude={"id"}), await stored(sql, table.__tablename__)))
    assert found[0] == found[1] == found[2] == found[3]
    return found[0]


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_value_of_each_type_is_stored_as_sqlalchemy_stores_it(filled, sql, number):  # noqa: F811
    row = rows()[2 + number]
    given, kept = await insert_all(filled, sql, Thing, ThingPublic, **values_of(row))
    assert given["secret"] == row.secret
    assert kept["secret"] in (None, "enc:olleh")
    assert kept["state"] == row.state.name
    assert kept["nickname"] == given["nick"]


async def test_defaults_are_made_as_sqlalchemy_makes_them(filled, sql):  # noqa: F811
    given, kept = await insert_all(filled, sql, Made, MadePublic, name="a")
    assert given == kept
    assert given | {"code": ""} == {
        "name": "a",
        "status": "new",
        "upper": "A",
        "token": "made",
        "code": "",
        "place": 3,
    }
    await insert_all(filled, sql, Made, MadePublic, name="a", status="old", upper="x", place=4)
    full = {"status": "old", "upper": "x", "code": "c", "token": "t", "place": 4}
    await insert_all(filled, sql, Made, MadePublic, name="a", **full)
    with off():
        assert inserts.insert_plan(Made, MadePublic, frozenset({"name", *full}))
    assert inserts.insert_plan(Made, MadePublic, frozenset({"name"})) is None


async def test_a_field_has_its_default_though_its_column_was_given(filled, sql):  # noqa: F811
    for layers in (LONG, SHORT):
        with off(*layers):
            async with open_session(filled) as session:
                made = await session.insert(Thing, NickPublic, name="x")
                blank = await session.insert(Thing, NickPublic, name="x", nick=None)
                by_the_orm = Thing(name="x")
                session.add(by_the_orm)
            assert made.nick == by_the_orm.nick == "Nick"
            assert blank.nick is None
    nicks = await sql.fetch("SELECT nickname FROM peeled_things WHERE name = 'x' ORDER BY id")
    assert [nick for [nick] in nicks] == ["Nick", None, "Nick"] * 2


@pytest.mark.parametrize("values", [{}, {"place": 4}, {"secret": "word"}])
async def test_what_the_database_makes_is_read_as_its_column_says(filled, sql, values):  # noqa: F811
    given, kept = await insert_all(filled, sql, Blank, BlankPublic, **values)
    assert given == {"place": 3, "secret": "hello"} | values
    assert kept["secret"] == "enc:" + given["secret"][::-1]


async def test_a_value_may_be_an_expression(filled, sql):  # noqa: F811
    async with open_session(filled) as session:
        for _ in range(2):
            shop = await session.insert(Shop, ShopPublic, name=func.concat("Shop ", func.random()))
            assert shop.name.startswith("Shop 0.")


async def test_a_dto_needs_no_column(filled, sql):  # noqa: F811
    for layers in (LONG, SHORT):
        with off(*layers):
            async with open_session(filled) as session:
                made = await session.insert(Shop, NoColumn, name=f"Shop {len(layers)}")
                assert made == NoColumn(fixed="always")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "x", "colour": 1}, "Shop has no column colour; it has: id, name, since"),
        ({"name": 7}, "cannot be of type int|has a value of the wrong type"),
        (
            {"name": "x", "since": "2030-01-01"},
            "since cannot be of type str|a value of the wrong type",
        ),
    ],
)
async def test_a_wrong_name_or_value_is_told(filled, sql, values, words):  # noqa: F811
    for layers in (LONG, SHORT):
        with off(*layers), pytest.raises(TypeError, match=words):
            async with open_session(filled) as session:
                await session.insert(Shop, ShopPublic, **values)
    assert await sql.fetchval("SELECT count(*) FROM peeled_shops WHERE name = 'x'") == 0


async def test_a_column_is_meant_by_the_name_that_its_class_has_for_it(filled, sql):  # noqa: F811
    async with open_session(filled) as session:
        with pytest.raises(TypeError, match="Thing has no column nickname"):
            await session.insert(Thing, ThingPublic, name="x", nickname="x")
    for names in ({"nick": "N"}, values_of(rows()[2]) | {"nick": "N"}):
        async with open_session(filled) as session:
            made = await session.insert(Thing, ThingPublic, **{"name": "x", **names})
            assert made.nick == "N"
            [[nick]] = await session.fetch(select(Thing.nick).where(Thing.id == made.id))
            assert nick == "N"


def test_what_a_plan_was_made_for_is_forgotten_at_last():
    assert inserts._cached_plan.cache_info().maxsize == 1024
