"""What breaks a client is told, and what only adds is not."""

import copy
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse

from kernel.data.values import RowId
from kernel.dev.scaffold.breaks import broken
from kernel.http.router import Router

BODY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9, "minLength": 1, "pattern": "^a"},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["name"],
}
PUBLIC = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "parts": {"items": copy.deepcopy(BODY), "type": "array"},
    },
    "required": ["id"],
}
LIMIT = {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 100}}
DOCUMENT = {
    "paths": {
        "/things": {
            "post": {
                "operationId": "make",
                "parameters": [LIMIT],
                "requestBody": {"content": {"application/json": {"schema": BODY}}},
                "responses": {
                    "201": {
                        "headers": {"ETag": {}},
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Public"}}
                        },
                    }
                },
            }
        }
    },
    "components": {"schemas": {"Public": PUBLIC}},
}
MAKE = ("paths", "/things", "post")
SENT = (*MAKE, "requestBody", "content", "application/json", "schema")
GIVEN = ("components", "schemas", "Public")
GONE = object()


def changed(place, value):
    document = copy.deepcopy(DOCUMENT)
    *way, last = place
    part = document
    for step in way:
        part = part[step]
    if value is GONE:
        del part[last]
    else:
        part[last] = value
    return document


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("paths", "/things"), GONE, "gone"),
        (MAKE, GONE, "gone"),
        ((*MAKE, "operationId"), "create", "is called create now"),
        ((*MAKE, "security"), [{"x": []}], "asks for a credential"),
        ((*MAKE, "parameters"), [], "parameter limit: gone"),
        ((*MAKE, "parameters", 0), LIMIT | {"required": True}, "parameter limit: required"),
        (
            (*MAKE, "parameters", 0, "schema", "maximum"),
            50,
            "parameter limit: maximum is 50 now",
        ),
        ((*SENT, "required"), ["name", "kind"], "body.kind: required"),
        ((*SENT, "properties", "note"), GONE, "body.note: gone"),
        ((*SENT, "properties", "note"), {"type": "string"}, "body.note: no longer null"),
        (
            (*SENT, "properties", "name", "type"),
            "integer",
            "body.name: no longer string",
        ),
        ((*SENT, "properties", "name", "maxLength"), 8, "body.name: maxLength is 8 now"),
        ((*SENT, "properties", "name", "minLength"), 2, "body.name: minLength is 2 now"),
        ((*SENT, "properties", "name", "pattern"), "^b", "body.name: has another pattern"),
        ((*SENT, "properties", "name", "enum"), ["a"], "body.name: takes only some values"),
        ((*SENT, "properties", "kind", "enum"), ["a"], "body.kind: 'b' is gone"),
        ((*SENT, "properties", "name", "format"), "uuid", "body.name: has the format uuid now"),
        ((*MAKE, "responses"), {"200": {}}, "201: gone"),
        ((*MAKE, "responses", "201", "headers"), {}, "201: header ETag: gone"),
        ((*GIVEN, "properties", "id"), GONE, "201.id: gone"),
        ((*GIVEN, "properties", "id", "type"), "string", "201.id: may be string"),
        ((*GIVEN, "required"), [], "201.id: may be missing"),
        (
            (*GIVEN, "properties", "id"),
            {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "201.id: may be null",
        ),
        (
            (*GIVEN, "properties", "parts", "items", "properties", "kind", "enum"),
            ["b"],
            "201.parts[].kind: 'a' is gone",
        ),
    ],
)
def test_a_change_that_breaks_a_client_is_told(place, value, told):
    lines = broken(DOCUMENT, changed(place, value))
    assert f"POST /things: {told}" in lines


def test_what_breaks_a_reader_of_events_is_told():
    router, app = Router(), FastAPI()

    @router.get("/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[RowId]:
        yield 1

    app.include_router(router)
    new = copy.deepcopy(app.openapi())
    assert broken(app.openapi(), new) == []
    content = new["paths"]["/events"]["get"]["responses"]["200"]["content"]
    item = content["text/event-stream"]["itemSchema"]["properties"]
    item["data"]["contentSchema"]["type"] = "string"
    del item["id"]
    told = ["GET /events: 200.data[]: may be string", "GET /events: 200.id: gone"]
    assert broken(app.openapi(), new) == told
    stream = content["text/event-stream"]
    stream["x-itemSchema"] = stream.pop("itemSchema")
    assert broken(app.openapi(), new) == told


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("paths", "/others"), DOCUMENT["paths"]["/things"]),
        ((*MAKE, "parameters"), [LIMIT, LIMIT | {"name": "q"}]),
        ((*MAKE, "parameters", 0, "schema", "maximum"), 200),
        ((*MAKE, "responses", "404"), {}),
        ((*SENT, "properties", "new"), {"type": "string"}),
        ((*SENT, "properties", "name", "maxLength"), 10),
        ((*SENT, "properties", "kind", "enum"), ["a", "b", "c"]),
        ((*SENT, "required"), []),
        ((*GIVEN, "properties", "new"), {"type": "string"}),
        ((*GIVEN, "required"), ["id", "parts"]),
    ],
)
def test_a_change_that_only_adds_is_fine(place, value):
    assert broken(DOCUMENT, changed(place, value)) == []
