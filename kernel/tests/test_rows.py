"""What the database gives becomes a DTO: as it is, where validation would change nothing."""

import gc
import weakref
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import asyncpg
import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    PrivateAttr,
    PydanticDeprecatedSince20,
    ValidationError,
    computed_field,
    field_serializer,
    field_validator,
    model_validator,
    validator,
)
from pydantic import Field as PydanticField
from sqlalchemy import func, literal, select, text
from sqlalchemy.orm import aliased
from sqlmodel import Field, SQLModel

from kernel.data.independent import open_session
from kernel.data.models import Dto, Line
from kernel.data.reader import ReadPool
from kernel.fast import rows, statements
from kernel.fast.records import Row, rows_of
from kernel.fast.rows import _shortcut, read
from kernel.testing.switches import off
from kernel.tests.articles.models import PeeledTag, PeeledTagPublic
from kernel.tests.peelings.models import Peeling, PeelingPublic

MOMENT = datetime(2030, 1, 2, tzinfo=UTC)
ROW = {"id": 1, "name": "Soup"}


def records(*found):
    return rows_of(found[0], [row.values() for row in found])


def is_trusted(model, *found):
    shortcut = _shortcut(model, tuple(found[0]))
    pick = (shortcut and shortcut.pick) or tuple
    return shortcut is not None and shortcut.is_valid([*map(pick, records(*found))])


class Plain(SQLModel):
    id: int
    name: str | None


class Native(BaseModel):
    a: str
    b: date
    c: datetime
    d: bool
    e: UUID
    f: bytes | None
    g: float
    h: time
    i: timedelta


NATIVE = {
    "a": "x",
    "b": MOMENT.date(),
    "c": MOMENT,
    "d": True,
    "e": UUID(int=1),
    "f": None,
    "g": float("inf"),
    "h": time(1),
    "i": timedelta.max,
}


class WithARule(Plain):
    @field_validator("name")
    @classmethod
    def _is_loud(cls, name: str) -> str:
        return name.upper()


class WithARuleForAll(Plain):
    @model_validator(mode="after")
    def _is_known(self) -> "WithARuleForAll":
        raise ValueError("is unknown")


class OfAnotherType(BaseModel):
    id: float
    name: EmailStr


def test_a_record_is_taken_as_it_is():
    (made,) = read(Native, records(NATIVE))
    assert is_trusted(Native, NATIVE)
    assert made == Native(**NATIVE)
    assert made.model_dump_json() == Native(**NATIVE).model_dump_json()
    assert all(getattr(made, name) is value for name, value in NATIVE.items())


class Shouting(BaseModel):
    id: int
    name: Annotated[str, AfterValidator(str.upper)]


class Trimming(BaseModel):
    id: int
    name: Annotated[str, BeforeValidator(str.strip)]


class Short(BaseModel):
    id: int
    name: str = PydanticField(max_length=2)


class Stripped(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    id: int
    name: str


class Lower(BaseModel):
    model_config = ConfigDict(str_to_lower=True)
    id: int
    name: str


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: int
    name: str


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int
    name: str


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    id: int
    name: str


class Renamed(BaseModel):
    number: int = PydanticField(alias="id")
    name: str


class Either(BaseModel):
    number: int = PydanticField(validation_alias=AliasChoices("no", "id"))
    name: str


class WithADefault(BaseModel):
    id: int
    name: str
    likes: int = 0


class WithAFactory(BaseModel):
    id: int
    name: str
    likes: list[int] = PydanticField(default_factory=list)


class WithAPrivatePart(BaseModel):
    id: int
    name: str
    _seen: int = PrivateAttr(default=0)


class Initialised(BaseModel):
    id: int
    name: str

    def __init__(self, **values: Any) -> None:
        super().__init__(**{**values, "name": values["name"].upper()})


class MadeAnew(Dto):
    id: int
    name: str

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = object.__new__(cls)
        vars(made)["seen"] = True
        return made


class OwnValidation(BaseModel):
    id: int
    name: str

    @classmethod
    def model_validate(cls, given: Any, **options: Any) -> Self:
        return super().model_validate({**given, "name": "mine"}, **options)


class PostInitialised(BaseModel):
    id: int
    name: str

    def model_post_init(self, _: Any) -> None:
        self.name = self.name.upper()


class OwnSchema(str):
    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: Any) -> Any:
        return handler(Annotated[str, AfterValidator(str.title)])


class OfOwnSchema(BaseModel):
    id: int
    name: OwnSchema


class Chosen(BaseModel):
    id: int
    name: Literal["Soup", "Stew"]


class OfLines(Dto):
    id: int
    name: Line


class OfList(BaseModel):
    id: int
    name: list[str]


class OfDict(BaseModel):
    id: int
    name: dict[str, int]


class OfDecimal(BaseModel):
    id: int
    name: Decimal


class Computed(BaseModel):
    id: int
    name: str

    @computed_field
    def label(self) -> str:
        return f"{self.id} {self.name}"

    @field_serializer("name")
    def _loudly(self, name: str) -> str:
        return name.upper()


class Titled(SQLModel):
    id: int = Field(schema_extra={"json_schema_extra": {"format": "int64"}})
    name: str | None = None


UNTRUSTED = [
    *(Shouting, Trimming, Short, Stripped, Lower, Strict, Open, Renamed, Either),
    *(
        WithADefault,
        WithAFactory,
        WithAPrivatePart,
        Initialised,
        MadeAnew,
        PostInitialised,
        OwnValidation,
    ),
    *(OfOwnSchema, Chosen, OfLines, OfList, OfDict, OfDecimal, WithARule, OfAnotherType),
]
TRUSTED = [Plain, Frozen, Computed, Titled, PeelingPublic]
PUBLIC = {"id": 1, "created_at": MOMENT, "updated_at": MOMENT, "version": 1}
VALUES = [
    *("Soup", " Soup ", "", "x" * 300, None, 7, True, 1.5, b"Soup", Decimal("NaN"), Decimal(1)),
    *([1], ["x"], {"a": 1}, {1: 2}, MOMENT, date(2030, 1, 2), UUID(int=1), time(1)),
]


def read_on(model, found, *, is_short):
    try:
        with off(*([] if is_short else ["rows"])):
            made = read(model, found)
    except ValidationError as error:
        return [(each["loc"], each["type"]) for each in error.errors()]
    except (AttributeError, TypeError) as error:  # of a rule
        return str(error)
    return [
        (vars(row), [*map(type, vars(row).values())], sorted(row.model_fields_set), row.model_extra,
         row.__pydantic_private__, row.model_dump_json())
        for row in made
    ]  # fmt: skip


@pytest.mark.parametrize("model", [*UNTRUSTED, *TRUSTED])
def test_a_dto_is_the_same_with_and_without_the_short_way(model):
    names = ("name", "title", "description", "owner_id", "note")
    for value in VALUES:
        for number in (1, 2**70, True, 1.0, "1", None):
            row = PUBLIC | dict.fromkeys(names, value) | {"id": number, "owner_id": number}
            short = repr(read_on(model, records(row), is_short=True))
            assert short == repr(read_on(model, records(row), is_short=False))


@pytest.mark.parametrize("model", UNTRUSTED)
def test_a_dto_that_asks_for_more_than_plain_types_is_validated(model):
    assert not is_trusted(model, ROW)


@pytest.mark.parametrize("model", TRUSTED)
def test_a_dto_of_plain_types_is_not(model):
    row = PUBLIC | {"name": "x", "title": "x", "description": None, "owner_id": 1}
    assert is_trusted(model, row, row | {"description": "x"})
    assert not is_trusted(model, row, row | {"id": None})
    assert not is_trusted(model, row, row | {"id": True})
    assert not is_trusted(model, row, {name: row[name] for name in row if name != "id"} | {"no": 1})


def test_a_switch_turns_the_short_way_off(monkeypatch):
    monkeypatch.setattr(rows, "_make", lambda *_: ["made"])
    with off():
        assert read(Plain, records(ROW)) == ["made"]
    with off("rows"):
        assert read(Plain, records(ROW)) == [Plain(**ROW)]


def test_a_column_that_is_no_field_is_left_out():
    (made,) = read(Plain, records(ROW | {"password_hash": "secret"}))
    assert vars(made) == ROW


def test_every_slot_of_an_instance_is_set():
    """A further slot of pydantic's would mean the long way for every DTO."""
    assert is_trusted(Plain, ROW)
    (made,) = read(Plain, records(ROW))
    for slot in BaseModel.__slots__:
        assert getattr(made, slot) == getattr(Plain(**ROW), slot)


def test_no_records_make_no_dtos():
    assert read(Plain, []) == []


def test_a_dto_can_be_copied_and_changed():
    first, second = read(Plain, records(ROW, ROW | {"id": 2}))
    first.name = "Stew"
    assert second.model_copy(update={"name": None}) == Plain(id=2, name=None)
    assert (first.name, second.name) == ("Stew", "Soup")


def test_a_dto_with_rules_keeps_to_them():
    assert read(WithARule, records(ROW))[0].name == "SOUP"
    with pytest.raises(ValueError, match="is unknown"):
        read(WithARuleForAll, records(ROW))


def test_a_deprecated_validator_is_run_too():
    with pytest.warns(PydanticDeprecatedSince20):

        class Old(Plain):
            @validator("name")
            def _is_loud(cls, name: str) -> str:  # noqa: N805  # pydantic's class method
                return name.upper()

    assert read(Old, records(ROW))[0].name == "SOUP"


def test_a_dto_with_a_private_attribute_has_it():
    class Counting(BaseModel):
        id: int
        name: str
        _seen: int = PrivateAttr(default=0)

    (made,) = read(Counting, records(ROW))
    made._seen += 1
    assert made._seen == 1


def test_a_value_of_another_type_is_converted():
    (made,) = read(OfAnotherType, records({"id": Decimal("1.5"), "name": "a@b.org"}))
    assert (type(made.id), made.id) == (float, 1.5)


async def test_a_row_of_a_query_is_a_dto(app):
    reader: ReadPool = app.state.resources.reader
    found = await reader.first(Plain, select(literal(7).label("id"), literal("Leek").label("name")))
    assert found == Plain(id=7, name="Leek")


# Two columns of one name.


FIRST, SECOND = aliased(Peeling), aliased(Peeling)
FIRST_ROWS, SECOND_ROWS = select(Peeling).subquery(), select(Peeling).subquery()
TWO_IDS = [
    select(Peeling, PeeledTag).join(PeeledTag, PeeledTag.name == "b"),
    select(Peeling.title, Peeling.version, Peeling.owner_id, Peeling, aliased(Peeling).id),
    text("SELECT p.*, 7 AS id FROM peelings p"),
    select(literal(1).label("id"), literal("x").label("title"), literal(2).label("id")),
    select(FIRST.id, SECOND.id, SECOND.title),
    select(FIRST, SECOND),
    select(FIRST_ROWS.c.id, SECOND_ROWS.c.id, SECOND_ROWS.c.title),
    select((FIRST.id + 1).label("id"), (SECOND.id + 1).label("id")),
]
ONE_ID = [
    select(Peeling, PeeledTag.name.label("tag")).outerjoin(PeeledTag, PeeledTag.name == "b"),
    select(Peeling, Peeling.id, Peeling.title),
    select(Peeling.id.label("no"), Peeling),
    select(Peeling, func.count().over(), func.count(Peeling.id).over()),
    select(FIRST, FIRST.id, (FIRST.id + 1).label("more"), (FIRST.id + 1).label("more")),
    select(Peeling).from_statement(select(Peeling)),
    select(Peeling).from_statement(text("SELECT * FROM peelings")),
]


def doors(app):
    reader = app.state.resources.reader

    async def in_a_stream(model, statement):
        return [row async for row in reader.stream(model, statement)]

    async def in_a_session(model, statement):
        async with open_session(app) as session:
            return await session.all(model, statement)

    return reader.all, reader.first, in_a_stream, in_a_session


async def peel(sql, alice):
    await sql.execute("INSERT INTO peelings (title, owner_id) VALUES ('a', $1)", alice.user_id)
    await sql.execute("INSERT INTO peeled_tags (name) VALUES ('b')")


@pytest.mark.parametrize("statement", TWO_IDS)
async def test_two_columns_of_one_name_are_refused(app, sql, alice, statement):
    await peel(sql, alice)
    for door in doors(app):
        for layers in (("statements", "rows"), (), ()):
            with (
                off(*layers),
                pytest.raises(TypeError, match=r"two columns called .*id.* label one"),
            ):
                await door(PeelingPublic, statement)
    assert app.state.resources.reader.in_use() == 0


@pytest.mark.parametrize("statement", ONE_ID)
async def test_a_column_twice_and_others_with_labels_are_read(app, sql, alice, statement):
    await peel(sql, alice)
    for door in doors(app):
        for _ in range(3):
            found = await door(PeelingPublic, statement)
            [row] = found if isinstance(found, list) else [found]
            assert (row.title, row.owner_id) == ("a", alice.user_id)


async def test_an_outer_join_that_finds_nothing_is_no_row(app, sql, alice):
    """Its columns are null, whatever they were declared to be."""
    await sql.execute("INSERT INTO peelings (title, owner_id) VALUES ('a', $1)", alice.user_id)
    tags = select(PeeledTag).select_from(Peeling).outerjoin(PeeledTag, PeeledTag.id == -1)
    for _ in range(3):
        with pytest.raises(ValidationError):
            await app.state.resources.reader.all(PeeledTagPublic, tags)


# Records.


async def test_a_row_has_the_interface_of_a_record(sql):
    record = await sql.fetchrow("SELECT 1 AS id, 'x' AS name, 2 AS id")
    [row] = rows_of(["id", "name", "id"], [(1, "x", 2)])
    assert isinstance(record, asyncpg.Record)
    for look in [
        *(len, list, tuple, dict, repr, hash, lambda r: r["id"], lambda r: r[0], lambda r: r[-1]),
        *(lambda r: r[0:2], lambda r: [*r.keys()], lambda r: [*r.values()], lambda r: [*r.items()]),
        *(lambda r: r.get("id"), lambda r: r.get("no"), lambda r: r.get("no", 5)),
        *(lambda r: "id" in r, lambda r: 1 in r, lambda r: r == (1, "x", 2), lambda r: r == 5),
        *(lambda r: r == [1, "x", 2], lambda r: r == record, lambda r: record == r),
        *(lambda r: r["no"], lambda r: r[9], lambda r: r.no),
    ]:  # fmt: skip
        found = []
        for each in (record, row):
            try:
                found.append(look(each))
            except (KeyError, IndexError, AttributeError) as error:
                found.append(type(error))
        assert found[0] == found[1]
    assert isinstance(row, Row)


async def test_a_statement_is_kept_no_longer_than_whoever_made_it_keeps_it(app):
    reader: ReadPool = app.state.resources.reader
    before, refs = len(statements._plans), []
    for number in range(200):
        statement = select(Peeling).where(Peeling.id == number)
        for _ in range(2):
            await reader.all(PeelingPublic, statement)
        refs.append(weakref.ref(statement))
    del statement
    gc.collect()
    # SQLAlchemy's own cache has one for all of this form.
    assert len([ref for ref in refs if ref() is not None]) <= 1
    assert len(statements._plans) <= before + 1
