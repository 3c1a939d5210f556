"""The types of a body's fields in parameters, whose values are text, on FastAPI's way and ours."""

from contextlib import nullcontext
from typing import Annotated, Any, Literal

import pytest
from fastapi import Body, Cookie, Form, Header, Path, Query, WebSocket
from pydantic import Field

from kernel.data.filters import Filter
from kernel.data.models import Dto, Input
from kernel.data.values import Amount, Day, RowId, Timestamp, Whole
from kernel.http.dependencies import Session
from kernel.http.router import Router
from kernel.testing.switches import off


class Asked(Dto):
    whole: Whole | None = None
    row: RowId | None = None
    rows: list[RowId] | None = None
    many: list[Whole] = Field(default=[])
    called: Whole | None = Field(default=None, alias="as")
    flag: bool | None = None
    amount: Amount | None = None
    day: Day | None = None
    moment: Timestamp | None = None
    either: RowId | Literal["me"] | None = None


class AskedStrictly(Input):
    row: RowId


class AskedHeaders(Dto):
    x_row: RowId | None = None


class Ordered(Filter):
    row: RowId | None = None
    rows: list[RowId] | None = None


class Sent(Input):
    row: RowId


router = Router(prefix="/peels", tags=["peels"])


@router.get("/own")
async def own(
    row: RowId | None = None,
    whole: Annotated[Whole | None, Query(ge=-5)] = None,
    least: Annotated[RowId, Query(ge=5, alias="at-least")] = 5,
    either: RowId | Literal["me"] | None = None,
    flag: bool | None = None,
    amount: Amount | None = None,
    day: Day | None = None,
    moment: Timestamp | None = None,
) -> dict[str, Any]:
    return {**locals()}


@router.get("/lists")
async def lists(
    rows: Annotated[list[RowId], Query(max_length=2)],
    x_row: Annotated[RowId, Header()],
    crumb: Annotated[Whole, Cookie()],
) -> dict[str, Any]:
    return {**locals()}


@router.get("/model")
async def model(asked: Annotated[Asked, Query()]) -> dict[str, Any]:
    return asked.model_dump()


@router.get("/strict")
async def strict(asked: Annotated[AskedStrictly, Query()]) -> dict[str, Any]:
    return asked.model_dump()


@router.get("/headers")
async def headers(asked: Annotated[AskedHeaders, Header()]) -> dict[str, Any]:
    return asked.model_dump()


@router.get("/filter")
async def filtered(asked: Annotated[Ordered, Query()]) -> dict[str, Any]:
    return asked.model_dump()


@router.get("/path/{row}")
async def of_path(row: RowId) -> dict[str, Any]:
    return {**locals()}


@router.get("/told/{row}")
async def of_told_path(row: Annotated[Whole, Path(le=9)]) -> dict[str, Any]:
    return {**locals()}


@router.post("/form")
async def form(row: Annotated[RowId, Form()], _: Session) -> dict[str, Any]:
    return {"row": row}


@router.post("/body")
async def body(data: Sent, _: Session, more: Annotated[RowId, Body()] = 1) -> dict[str, Any]:
    return {"row": data.row, "more": more}


@router.post("/rows")
async def rows(data: list[RowId], _: Session) -> list[int]:
    return data


@router.websocket("/socket")
async def socket(live: WebSocket, row: RowId) -> None:
    await live.accept()
    await live.send_text(f"{row + 1}")


WAYS = {"short": nullcontext, "fastapi": lambda: off("plan")}


@pytest.fixture(params=WAYS)
async def client(request, mount):
    with WAYS[request.param]():
        async with mount(router) as client:
            yield client


HEADERS = {"X-Row": "7", "Cookie": "crumb=-3"}
TAKEN = [
    ("own?row=7&whole=-5&at-least=9&either=8", {"row": 7, "whole": -5, "least": 9, "either": 8}),
    ("own?either=me&flag=true&amount=1.5", {"either": "me", "flag": True, "amount": "1.50"}),
    ("own?day=2030-01-02", {"day": "2030-01-02"}),
    ("own?moment=2030-01-02T03:04:05Z", {"moment": "2030-01-02T03:04:05Z"}),
    ("lists?rows=1&rows=9223372036854775807", {"rows": [1, 2**63 - 1], "x_row": 7, "crumb": -3}),
    ("model?whole=-7&row=1&rows=1&rows=2&as=4", {"whole": -7, "row": 1, "rows": [1, 2]}),
    ("model?as=4&many=1&flag=0", {"called": 4, "many": [1], "flag": False}),
    ("model?either=7&amount=2&day=2030-01-02", {"amount": "2.00", "day": "2030-01-02"}),
    ("model?either=me", {"either": "me"}),
    ("strict?row=8", {"row": 8}),
    ("headers", {"x_row": 7}),
    ("filter?row=3&rows=4&rows=5", {"row": 3, "rows": [4, 5]}),
    ("path/7", {"row": 7}),
    ("told/-7", {"row": -7}),
]


@pytest.mark.parametrize(("path", "found"), TAKEN)
async def test_a_number_in_a_parameter_is_read(client, path, found):
    answer = await client.get(f"/peels/{path}", headers=HEADERS)
    assert answer.status_code == 200, answer.text
    assert answer.json().items() >= found.items()


NO_NUMBERS = [
    "1_0",
    " 1",
    "%2B1",
    "1 ",
    "\u0661",
    "1.0",
    "1e3",
    "",
    "x",
    "--1",
    "9" * 19,
    "9" * 5000,
]
PLACES = ["own?row=", "own?whole=", "lists?rows=1&rows=", "model?row=", "model?rows=1&rows="]
PLACES += ["model?as=", "strict?row=", "filter?row=", "filter?rows=1&rows="]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=range(len(NO_NUMBERS)))
async def test_text_that_only_pythons_int_accepts_is_a_422(client, value):
    for place in PLACES:
        answer = await client.get(f"/peels/{place}{value}", headers=HEADERS)
        assert answer.status_code == 422, (place, answer.text)
        (error,) = answer.json()["errors"]
        assert error["loc"][1] == place.rpartition("&")[2].split("?")[-1].rstrip("=")
    for headers in ({"X-Row": value}, {"Cookie": f"crumb={value}"}):
        if value.isascii() and not {" ", "%"} & {*value}:
            answer = await client.get("/peels/lists?rows=1", headers=HEADERS | headers)
            assert answer.status_code == 422, headers
    if value:
        assert (await client.get(f"/peels/path/{value}")).status_code in {404, 422}


@pytest.mark.parametrize(
    "path",
    ["own?row=0", "own?whole=-6", "own?at-least=4", "lists?rows=0", "model?row=0", "told/10"],
)
async def test_the_bounds_of_a_number_hold_in_a_parameter(client, path):
    assert (await client.get(f"/peels/{path}", headers=HEADERS)).status_code == 422


async def test_in_a_body_a_number_is_no_text(client):
    for row, status in ((7, 200), ("7", 422), (True, 422)):
        for path, sent in (
            ("body", {"data": {"row": row}}),
            ("body", {"data": {"row": 1}, "more": row}),
            ("rows", [row]),
        ):
            answer = await client.post(f"/peels/{path}", json=sent)
            assert answer.status_code == status, (path, row)
    assert (await client.post("/peels/form", data={"row": "7"})).json() == {"row": 7}
    assert (await client.post("/peels/form", data={"row": "1_0"})).status_code == 422


async def test_a_number_in_a_parameter_of_a_socket_is_read(client):
    async with client.socket("/peels/socket?row=7") as live:
        assert await live.receive() == "8"
    async with client.socket("/peels/socket?row=1_0") as live:
        assert live.status == 422


async def test_the_document_says_of_a_parameter_what_it_says_of_a_field(client):
    document = (await client.get("/openapi.json")).json()
    paths, schemas = document["paths"], document["components"]["schemas"]
    for place in ("own", "model", "filter", "headers"):
        parameters = paths[f"/peels/{place}"]["get"]["parameters"]
        schema = {each["name"]: each["schema"] for each in parameters}
        number = schema.get("row") or schema["x-row"]
        bounds = {key: number["anyOf"][0][key] for key in ("type", "minimum", "maximum")}
        assert bounds == {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}, place
    assert schemas["Sent"]["properties"]["row"]["minimum"] == 1
    least = paths["/peels/own"]["get"]["parameters"][2]["schema"]
    assert (least["minimum"], least["maximum"]) == (5, 2**63 - 1)
