"""What the document tells tools: names of choices, files, references, labels, exact numbers."""

from collections.abc import AsyncIterator
from decimal import Decimal
from enum import IntEnum
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from fastapi import Query, Response, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from pydantic import Field as Bound
from pydantic import PlainSerializer, PlainValidator, TypeAdapter
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table
from sqlmodel import Field

from kernel import (
    Amount,
    CurrentUser,
    Day,
    Document,
    Dto,
    Filter,
    Id,
    Input,
    Page,
    Paging,
    Public,
    Reader,
    Router,
    RowId,
    Session,
    Whole,
)
from kernel.data.values import AS_TEXT, MOST
from kernel.http import references
from kernel.http.hints import add_hints
from kernel.http.schemas import fields
from kernel.settings import Settings
from kernel.tests.app import create_walked_app

router = Router(prefix="/peeled_receipts", tags=["peeled_receipts"])
Status = Literal["open", "in progress", "2nd reminder"]


class Rank(IntEnum):
    LOW = 1
    HIGH = 2


class PeeledReceiptCreate(Input):
    amount: Amount
    fee: Amount = Field(default=Decimal(1), ge=0, lt=5, max_digits=12, decimal_places=2)
    discount: Amount | None = Field(default=None, gt=0, le=9, max_digits=12, decimal_places=2)
    tip: Amount | None = Field(default=None, ge=Decimal("1.50"))
    parts: list[Annotated[Amount, Bound(gt=0, description="One of several")]] = Field(default=[])
    dozens: Whole | None = Field(default=None, multiple_of=12)
    status: Status = "open"
    rank: Rank = Rank.LOW
    level: Literal[1, 2] = 1
    count: Whole = 0
    owner_id: RowId
    peeled_article_id: RowId | None = None
    peeled_tag_ids: list[RowId] = Field(default=[], max_length=9)
    notes: Document = Field(default={})


class PeeledReceiptPublic(Public):
    owner_id: int
    amount: Amount
    status: Status
    due: Day | None
    number: str
    name: str


class PeeledStampPublic(Public):
    code: str
    state: Literal["2nd", "3rd"] = Field(
        schema_extra={"json_schema_extra": {"x-enum-varnames": ["SECOND", "THIRD"]}}
    )
    name: str = Field(schema_extra={"json_schema_extra": {"x-label": True}})
    owner_id: int = Field(schema_extra={"json_schema_extra": {"x-ref": {"table": "clerks"}}})
    # Of no row: the column of this name is a number.
    peeled_article_id: str


class PeeledReceiptFilter(Filter):
    status: list[Status] | None = None
    owner_id: list[RowId] | None = None
    due_before: Day | None = None
    amount_min: Amount | None = Field(default=None, ge=0)
    order: Literal["-id", "due", "status,-id", "-status,id"] = "-id"


def media_type(name: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {name: {}}}}


# What is looked at is the document of these, and the clients that are generated from it: no test
# calls one, and one that did would fail.
@router.post("", status_code=201)
async def create_peeled_receipt(
    data: PeeledReceiptCreate, _: CurrentUser, session: Session
) -> PeeledReceiptPublic:
    raise NotImplementedError


@router.get("")
async def list_peeled_receipts(
    _: CurrentUser, reader: Reader, paging: Paging, filters: Annotated[PeeledReceiptFilter, Query()]
) -> Page[PeeledReceiptPublic]:
    raise NotImplementedError


@router.get("/stamps")
async def list_peeled_stamps(_: CurrentUser) -> list[PeeledStampPublic]:
    raise NotImplementedError


class PeeledTotalPublic(Dto):
    currency: str
    total: Amount


@router.get("/total")
async def get_peeled_total(_: CurrentUser) -> PeeledTotalPublic:
    raise NotImplementedError


@router.post("/{receipt_id}/scans")
async def upload_peeled_scans(
    receipt_id: Id,
    files: list[UploadFile],
    _: CurrentUser,
    session: Session,
    cover: UploadFile | None = None,
) -> PeeledReceiptPublic:
    raise NotImplementedError


@router.get("/scan", responses=media_type("application/octet-stream"), response_class=Response)
async def get_peeled_scan(_: CurrentUser) -> Response:
    raise NotImplementedError


@router.get("/pdf", responses=media_type("application/pdf"), response_class=Response)
async def get_peeled_pdf(_: CurrentUser) -> Response:
    raise NotImplementedError


@router.get("/csv", responses=media_type("text/csv"), response_class=StreamingResponse)
async def get_peeled_csv(_: CurrentUser) -> StreamingResponse:
    raise NotImplementedError


@router.get("/events", response_class=EventSourceResponse)
async def watch_peeled_receipts(_: CurrentUser) -> AsyncIterator[PeeledReceiptPublic]:
    raise NotImplementedError
    yield


@pytest.fixture(scope="module")
def document():
    app = create_walked_app(Settings(_env_file=None))
    app.include_router(router)
    return app.openapi()


@pytest.fixture(name="fields")
def fields_of(document):
    """Those of an object, by its name."""
    schemas = document["components"]["schemas"]
    return lambda name: schemas[name]["properties"]


@pytest.fixture
def parameters(document):
    """The schemas of a list's."""
    listed = document["paths"]["/peeled_receipts"]["get"]["parameters"]
    return {each["name"]: each["schema"] for each in listed}


def content(document, path):
    return document["paths"][path]["get"]["responses"]["200"]["content"]


def test_choices_that_are_no_names_are_given_some(fields, parameters):
    assert parameters["order"]["x-enum-varnames"] == [
        *("ID_DESC", "DUE", "STATUS_ID_DESC", "STATUS_DESC_ID")
    ]
    names = ["OPEN", "IN_PROGRESS", "VALUE_2ND_REMINDER"]
    assert fields("PeeledReceiptPublic")["status"]["x-enum-varnames"] == names
    (several, _) = parameters["status"]["anyOf"]
    assert several["items"]["x-enum-varnames"] == names
    assert "x-enum-varnames" not in fields("UserPublic")["role"]
    assert "x-enum-varnames" not in fields("PeeledReceiptCreate")["level"]


@pytest.mark.parametrize("choices", [["a b", "a-b"], ["+", "-"], ["", "a"], [1, "-1"], [None, "-"]])
def test_choices_that_would_have_one_name_or_none_are_given_none(choices):
    schema = {"enum": choices}
    add_hints({"paths": {}, "components": {"schemas": {"Choice": schema}}})
    assert schema == {"enum": choices}


def test_a_slices_own_schemas_may_say_whatever_json_schema_and_openapi_have():
    schema = {
        "type": ["object", "null"],
        "required": ["id", "anything", "gone", "title"],
        "properties": {
            "id": {"type": ["integer", "null"]},
            "anything": True,
            "owner_id": {"type": ["integer", "null"]},
            "title": {"type": "string"},
        },
        "additionalProperties": False,
        "items": True,
    }
    parameters = [
        {"$ref": "#/components/parameters/Limit"},
        {"in": "query", "name": "where", "content": {"application/json": {"schema": schema}}},
    ]
    answers = {"200": {"content": {"application/json": {"schema": schema}}}, "404": {"$ref": "#/x"}}
    operation = {"parameters": parameters, "responses": answers}
    add_hints({"paths": {"/items": {"get": operation}, "/users/{id}": {"get": operation}}})
    user = {"table": "users"}  # nothing says what the path takes
    assert schema["properties"]["owner_id"] == {"type": ["integer", "null"], "x-ref": user}
    assert schema["properties"]["title"] == {"type": "string", "x-label": True}


def test_a_field_says_what_row_it_refers_to(fields, parameters):
    user = {"table": "users", "path": "/users/{user_id}"}
    found = {name: each.get("x-ref") for name, each in fields("PeeledReceiptCreate").items()}
    assert {name: each for name, each in found.items() if each} == {
        "owner_id": user,
        "peeled_article_id": {"table": "peeled_articles"},  # whose path has a slug
        "peeled_tag_ids": {"table": "peeled_tags"},
    }
    assert (
        parameters["owner_id"]["x-ref"]
        == fields("PeeledReceiptPublic")["owner_id"]["x-ref"]
        == user
    )
    assert "x-ref" not in fields("PeeledReceiptPublic")["id"]


def test_a_name_that_several_tables_have_is_that_of_the_paths_own(monkeypatch):
    tables = MetaData()
    Table("boxes", tables, Column("id", Integer, primary_key=True), Column("code", String))
    for name in ("lids", "shelves"):
        key, parent = Column("id", Integer, primary_key=True), ForeignKey(f"{name}.id")
        box = Column("box_code", String, ForeignKey("boxes.code"))
        Table(name, tables, key, Column("parent_id", Integer, parent), box)
    monkeypatch.setattr(references, "SQLModel", SimpleNamespace(metadata=tables))
    paths = {
        **_read("/boxes/{code}", "string"),
        **_read("/lids/{lid_id}", "integer"),
        **_read("/shelves/{shelf_id}", "integer"),
        **_read("/others/{other_id}", "integer"),
    }
    add_hints({"paths": paths})
    of = {path: each["get"]["responses"]["200"]["content"] for path, each in paths.items()}
    found = {
        path: {name: each.get("x-ref") for name, each in fields(it["a/b"]["schema"]).items()}
        for path, it in of.items()
    }
    lid = {"table": "lids", "path": "/lids/{lid_id}"}
    shelf = {"table": "shelves", "path": "/shelves/{shelf_id}"}
    # A box's path takes its key, which another row does not refer to.
    assert found["/lids/{lid_id}"] == {"parent_id": lid, "box_code": {"table": "boxes"}}
    assert found["/shelves/{shelf_id}"] == {"parent_id": shelf, "box_code": {"table": "boxes"}}
    assert found["/others/{other_id}"] == {"parent_id": None, "box_code": {"table": "boxes"}}


def _read(path, key):
    named = {"parent_id": {"type": "integer"}, "box_code": {"type": "string"}}
    answer = {"content": {"a/b": {"schema": {"properties": named}}}}
    parameter = {"in": "path", "name": "key", "schema": {"type": key}}
    return {path: {"get": {"parameters": [parameter], "responses": {"200": answer}}}}


def test_what_has_no_id_is_no_row_and_no_row_is_called_by_its_id(fields):
    assert not any("x-label" in each for each in fields("PeeledTotalPublic").values())
    assert [name for name, each in fields("PeeledCountryPublic").items() if "x-label" in each] == [
        "name"
    ]


def test_a_row_is_called_by_its_first_text_that_is_always_there(fields):
    labels = [name for name, each in fields("PeeledReceiptPublic").items() if each.get("x-label")]
    assert labels == ["number"]
    assert not any("x-label" in each for each in fields("PeeledReceiptCreate").values())
    assert not any("x-label" in each for each in fields("KeyCreated").values())  # it has a secret


def test_what_a_slice_says_itself_stays(fields):
    stamp = fields("PeeledStampPublic")
    assert [name for name, each in stamp.items() if "x-label" in each] == ["name"]
    assert stamp["owner_id"]["x-ref"] == {"table": "clerks"}
    assert "x-ref" not in stamp["peeled_article_id"]
    assert stamp["state"]["x-enum-varnames"] == ["SECOND", "THIRD"]


def test_a_file_is_one_to_tools_of_either_version_of_openapi(fields):
    file = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}
    scans = fields("Body_upload_peeled_scans")
    assert scans["files"]["items"] == scans["cover"]["anyOf"][0] == file


def test_an_answer_of_a_media_type_alone_is_text_or_bytes(document):
    assert content(document, "/peeled_receipts/csv") == {"text/csv": {"schema": {"type": "string"}}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    assert content(document, "/peeled_receipts/pdf") == {"application/pdf": binary}
    assert content(document, "/peeled_receipts/scan") == {"application/octet-stream": binary}


def test_what_the_parts_of_a_stream_are_is_told_in_the_words_of_the_documents_version(document):
    assert document["openapi"].startswith("3.1.")
    (events,) = content(document, "/peeled_receipts/events").values()
    assert list(events) == ["x-itemSchema"]
    data = events["x-itemSchema"]["properties"]["data"]
    assert data["contentSchema"] == {"$ref": "#/components/schemas/PeeledReceiptPublic"}


def test_the_bounds_of_a_whole_number_are_whole(fields):
    body = fields("PeeledReceiptCreate")
    assert (body["owner_id"]["minimum"], body["owner_id"]["maximum"]) == (1, 2**63 - 1)
    assert all(type(body["owner_id"][name]) is int for name in ("minimum", "maximum"))
    assert (body["count"]["minimum"], body["count"]["maximum"]) == (-(2**31), 2**31 - 1)


def test_an_amount_is_said_to_be_exact(fields):
    amount = fields("PeeledReceiptPublic")["amount"]
    assert (amount["type"], amount["format"]) == ("string", "decimal")
    assert "never a float" in amount["description"]
    number, text = fields("PeeledReceiptCreate")["amount"]["anyOf"]
    assert (number["type"], text["format"]) == ("number", "decimal")


def test_the_bounds_of_an_amount_are_those_of_a_number(fields, parameters):
    body = fields("PeeledReceiptCreate")
    for field, bounds in (
        (body["fee"], {"minimum": 0, "maximum": MOST, "exclusiveMaximum": 5}),
        (body["discount"]["anyOf"][0], {"minimum": -MOST, "maximum": 9, "exclusiveMinimum": 0}),
        (body["tip"]["anyOf"][0], {"minimum": 1.5, "maximum": MOST}),
        (body["parts"]["items"], {"minimum": -MOST, "maximum": MOST, "exclusiveMinimum": 0}),
        (parameters["amount_min"]["anyOf"][0], {"minimum": 0, "maximum": MOST}),
    ):
        number, text = field["anyOf"]
        assert number == {"type": "number", "multipleOf": 0.01} | bounds
        assert text == AS_TEXT
        assert field.keys() - {"title", "default"} == {"anyOf", "description"}
    assert "examples" not in body["discount"]  # 12.50 is no such amount
    assert body["amount"]["examples"] == ["12.50"]
    assert body["parts"]["items"]["description"] == "One of several"
    assert body["dozens"]["anyOf"][0]["multipleOf"] == 12


def test_what_another_validator_or_serializer_makes_of_an_amount_is_what_the_schema_says():
    floats = TypeAdapter(Annotated[Amount, PlainSerializer(float, return_type=float)])
    assert floats.json_schema(mode="serialization") == {"type": "number"}
    cents = TypeAdapter(Annotated[Amount, PlainValidator(int, json_schema_input_type=int)])
    assert cents.json_schema() == {"type": "integer"}


def test_the_mistakes_of_a_problem_are_a_list_and_never_null(fields):
    assert fields("Problem")["errors"]["type"] == "array"
