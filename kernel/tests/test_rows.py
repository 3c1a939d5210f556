"""What the database gives becomes a DTO: as it is, where nothing else is to be done with it."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import (
    BaseModel,
    EmailStr,
    PrivateAttr,
    PydanticDeprecatedSince20,
    field_validator,
    model_validator,
    validator,
)
from sqlalchemy import Column, Integer, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import SQLModel

from kernel.data.reader import ReadPool
from kernel.fast import statements
from kernel.fast.rows import _trusted, read

ROW = {"id": 1, "name": "Soup"}


class Plain(SQLModel):
    id: int
    name: str | None


class Native(BaseModel):
    a: Literal["x"]
    b: date
    c: datetime
    d: Decimal
    e: UUID
    f: dict[str, Any] | None


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
    moment = datetime(2030, 1, 2, tzinfo=UTC)
    row = {
        "a": "x",
        "b": moment.date(),
        "c": moment,
        "d": Decimal("1.50"),
        "e": UUID(int=1),
        "f": {},
    }
    (taken,) = read(Native, [row])
    assert taken == Native(**row)
    assert taken.model_dump_json() == Native(**row).model_dump_json()
    assert all(getattr(taken, name) is value for name, value in row.items())


def test_a_column_that_is_no_field_is_left_out():
    (taken,) = read(Plain, [ROW | {"password_hash": "secret"}])
    assert vars(taken) == ROW


def test_all_that_an_instance_has_is_set():
    """A further slot of pydantic's would mean the long way for every DTO."""
    assert _trusted(Plain) == ["id", "name"]
    (taken,) = read(Plain, [ROW])
    for slot in BaseModel.__slots__:
        assert getattr(taken, slot) == getattr(Plain(**ROW), slot)


def test_no_record_is_no_dto():
    assert read(Plain, []) == []


def test_a_dto_can_be_copied_and_changed():
    first, second = read(Plain, [ROW, ROW | {"id": 2}])
    first.name = "Stew"
    assert second.model_copy(update={"name": None}) == Plain(id=2, name=None)
    assert (first.name, second.name) == ("Stew", "Soup")


def test_a_dto_with_rules_keeps_to_them():
    assert read(WithARule, [ROW])[0].name == "SOUP"
    with pytest.raises(ValueError, match="is unknown"):
        read(WithARuleForAll, [ROW])


def test_a_rule_of_the_deprecated_kind_is_one_too():
    with pytest.warns(PydanticDeprecatedSince20):

        class Old(Plain):
            @validator("name")
            def _is_loud(cls, name: str) -> str:  # noqa: N805  # pydantic's class method
                return name.upper()

    assert read(Old, [ROW])[0].name == "SOUP"


def test_a_dto_with_a_private_attribute_has_it():
    class Counting(BaseModel):
        id: int
        name: str
        _seen: int = PrivateAttr(default=0)

    (taken,) = read(Counting, [ROW])
    taken._seen += 1
    assert taken._seen == 1


def test_what_is_no_type_of_a_column_is_made_one():
    (made,) = read(OfAnotherType, [{"id": Decimal("1.5"), "name": "a@b.org"}])
    assert (type(made.id), made.id) == (float, 1.5)


def test_what_is_inserted_is_what_the_driver_takes():
    document, size = Column("document", JSONB), Column("size", Integer, default=7)
    makers = (lambda: 9, lambda _: 9)
    made = [Column("made", Integer, default=maker) for maker in makers]
    assert statements.own_value(document, {"document": {"a": [1]}}) == '{"a": [1]}'
    assert statements.own_value(document, {"document": None}) is None
    assert [statements.own_value(size, each) for each in ({}, {"size": 8})] == [7, 8]
    assert [statements.own_value(column, {}) for column in made] == [9, 9]


async def test_a_row_of_a_query_is_a_dto(app):
    reader: ReadPool = app.state.resources.reader
    found = await reader.first(Plain, select(literal(7).label("id"), literal("Leek").label("name")))
    assert found == Plain(id=7, name="Leek")
