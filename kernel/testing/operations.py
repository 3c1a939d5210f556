"""Every operation of the app, out of its OpenAPI document, and a valid request for each.

Tests that walk these cover a slice as soon as it is mounted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import Table
from sqlmodel import SQLModel

from kernel.errors import TITLES
from kernel.http.bodies import FORMS
from kernel.testing.callers import PASSWORD, Caller

METHODS = ("get", "post", "put", "patch", "delete")
FORM = {"error", "message", "status", "title", "detail", "request_id"}
_numbers = count(1)


@dataclass(frozen=True)
class Operation:
    """One method of one path; `document` is the whole OpenAPI document, and `make_body` gives a
    valid body, by a number, where the schema alone does not tell what is valid."""

    method: str
    path: str
    spec: dict[str, Any] = field(repr=False, hash=False)
    document: dict[str, Any] = field(repr=False, hash=False)
    make_body: Callable[[int], dict[str, Any]] | None = field(repr=False, hash=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def name(self) -> str:
        name: str = self.spec["operationId"]
        return name

    @property
    def body(self) -> dict[str, Any] | None:
        """The schema of the body, references resolved."""
        content = self.spec.get("requestBody", {}).get("content", {})
        return self.resolve(content[self.media_type]["schema"]) if content else None

    @property
    def table(self) -> Table | None:
        """The table that the path is about: the last of its words that is the name of one."""
        tables = SQLModel.metadata.tables
        words = [word.replace("-", "_") for word in self.path.split("/")]
        return next((tables[word] for word in reversed(words) if word in tables), None)

    @property
    def references(self) -> dict[str, str]:
        """The fields of the body that refer to another row, and the table of that row."""
        fields = self.body.get("properties", {}) if self.body else {}
        columns = [] if self.table is None else [c for c in self.table.c if c.name in fields]
        return {
            column.name: key.column.table.name for column in columns for key in column.foreign_keys
        }

    @property
    def success(self) -> dict[str, Any]:
        """What the document says of the answer when all is well."""
        return next(each for status, each in self.spec["responses"].items() if status[0] == "2")

    @property
    def media_type(self) -> str | None:
        """The body's."""
        return next(iter(self.spec.get("requestBody", {}).get("content", {})), None)

    @property
    def is_form(self) -> bool:
        return self.media_type in FORMS

    @property
    def answers_with_a_secret(self) -> bool:
        """Whether its answer is too secret to be kept for a replay."""
        given = self.spec.get("parameters", [])
        return any("secret" in each.get("description", "") for each in given)

    def parameters(self, place: str) -> dict[str, dict[str, Any]]:
        """The schemas of the parameters in `path`, `query` or `header`."""
        given = self.spec.get("parameters", [])
        return {each["name"]: self.resolve(each["schema"]) for each in given if each["in"] == place}

    def takes_null(self, field: str) -> bool:
        schema = (self.body or {})["properties"][field]
        return {"type": "null"} in schema.get("anyOf", [])

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            return self.resolve(
                self.document["components"]["schemas"][schema["$ref"].split("/")[-1]]
            )
        variants = schema.get("anyOf", [])
        usable = [variant for variant in variants if variant.get("type") != "null"]
        return self.resolve(usable[0]) if usable else schema

    def sample(self) -> dict[str, Any] | None:
        """A valid body with every field in it, different each time where it has to be."""
        if self.body is None:
            return None
        if self.make_body:
            return self.make_body(next(_numbers))
        properties = self.body.get("properties", {})
        blank = dict.fromkeys(self.references)  # which only the service can give
        return {name: self.value(schema) for name, schema in properties.items()} | blank

    def content(self, body: dict[str, Any] | None) -> dict[str, Any]:
        """The body as httpx takes it."""
        if body is None:
            return {}
        files = {name: value for name, value in body.items() if isinstance(value, bytes)}
        if files:
            return {"files": files, "data": {k: v for k, v in body.items() if k not in files}}
        return {"data" if self.is_form else "json": body}

    def value(self, schema: dict[str, Any]) -> Any:
        """A valid value of the field or parameter; a change's is not the one that the row has."""
        is_change = self.method == "PATCH"
        schema, number = self.resolve(schema), next(_numbers)
        kind = schema.get("format") or schema.get("contentMediaType") or schema.get("type")
        values: dict[str | None, Any] = {
            "email": f"sample{number}@example.com",
            "password": PASSWORD,
            "uuid": f"00000000-0000-4000-8000-{number:012d}",
            "date": f"2030-01-{number % 28 + 1:02}",
            "date-time": f"2030-01-02T03:{number % 60:02}:05Z",
            "integer": within(schema, number),
            "number": within(schema, number + 0.5),
            "boolean": not is_change,
            "array": [],
            "object": {"sample": number},
            "application/octet-stream": f"sample {number}".encode(),  # a file
            "string": f"sample {number}"[: schema.get("maxLength")],
        }
        return schema["enum"][-is_change] if "enum" in schema else values[kind]


def within(schema: dict[str, Any], number: float) -> float:
    """The number, or the bound that it is beyond."""
    least: float = schema.get("minimum", number)
    most: float = schema.get("maximum", number)
    return min(max(number, least), most)


def holds(operation: Operation, answer: httpx.Response) -> None:
    """Hold an answer against the document: its status is declared, a failure has the one form."""
    status = answer.status_code
    assert str(status) in operation.spec["responses"], (operation, status, answer.text[:300])
    assert answer.headers["x-request-id"]
    if status >= 400:
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem.keys() >= FORM
        assert (problem["status"], problem["title"]) == (status, TITLES[status])
        assert problem["request_id"] == answer.headers["x-request-id"]


def declared(app: FastAPI, name: str) -> dict[str, Any]:
    """What the tests of the mounted slices say under this name, like `RULES`, together."""
    modules = {
        getattr(route.endpoint, "__module__", "") for route in iter_route_contexts(app.routes)
    }
    slices = sorted(each.removesuffix(".router") for each in modules if each.endswith(".router"))
    said: dict[str, Any] = {}
    for slice_ in slices:  # in an order that all workers of a run share
        tests = import_module(f"{slice_}.test_{slice_.split('.')[-1]}")
        said |= getattr(tests, name, {})
    return said


def operations(app: FastAPI) -> Iterator[Operation]:
    """All operations of the app, in the order of its document."""
    document, samples = app.openapi(), declared(app, "SAMPLES")
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                sample = samples.get(methods[method]["operationId"])
                yield Operation(method.upper(), path, methods[method], document, sample)


def writes(app: FastAPI) -> list[Operation]:
    """The operations that may change something."""
    return [each for each in operations(app) if each.method != "GET"]


def lists(app: FastAPI) -> list[Operation]:
    """The operations that give pages of what another operation of the same path makes."""
    found = list(operations(app))
    creates = {each.path for each in found if each.method == "POST"}
    return [e for e in found if "cursor" in e.parameters("query") and e.path in creates]


class Sampler:
    """Calls operations with valid requests, as an admin, making the rows that paths name."""

    def __init__(self, app: FastAPI, caller: Caller) -> None:
        self.operations = {(each.method, each.path): each for each in operations(app)}
        self.caller = caller

    async def url(self, operation: Operation) -> str:
        """The operation's path, about a row that was made for it."""
        url = operation.path
        for name in operation.parameters("path"):
            place = f"/{{{name}}}"
            made = await self.one(operation.path.partition(place)[0], url.partition(place)[0])
            url = url.replace(place, f"/{made['id']}")
        return url

    async def one(self, path: str, url: str) -> dict[str, Any]:
        """A row of the collection: a new one or, where nobody can make one, the first."""
        create = self.operations.get(("POST", path))
        answer = await self.call(create or self.operations["GET", path], url)
        hint = f"POST {path} refuses its sample: the slice's tests can say SAMPLES"
        assert answer.is_success, f"{hint}\n{answer.text[:300]}"
        made: dict[str, Any] = answer.json()
        return made if create else made["items"][0]

    async def body(self, operation: Operation) -> dict[str, Any] | None:
        """A valid body, with things in it that only the service can give."""
        body = operation.sample()
        return None if body is None else body | await self.given(operation)

    async def given(self, operation: Operation) -> dict[str, Any]:
        """The fields of a body that only the service can give: a sign-in, and ids of rows."""
        fields = operation.body.get("properties", {}) if operation.body else {}
        given: dict[str, Any] = {
            name: await self.row(table)
            for name, table in operation.references.items()
            if table != getattr(operation.table, "name", None)  # or it would never end
        }
        if "username" in fields:
            given["username"] = self.caller.email
        if "refresh_token" in fields:
            form = {"username": self.caller.email, "password": PASSWORD}
            tokens = await self.caller.post("/auth/token", data=form)
            given["refresh_token"] = tokens.json()["refresh_token"]
        return given

    async def row(self, table: str) -> int:
        """The id of a new row to refer to."""
        ends = (f"/{table}", f"/{table.replace('_', '-')}")
        posts = [each for each in self.operations.values() if each.method == "POST"]
        create = next(each for each in posts if each.path.endswith(ends))
        made: int = (await self.call(create)).json()["id"]
        return made

    async def call(
        self, operation: Operation, url: str | None = None, body: Any = None, **headers: str
    ) -> httpx.Response:
        """Send a valid request, and hold the answer; `headers` are named with underscores."""
        url = url or await self.url(operation)
        body = body or await self.body(operation)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        content = operation.content(body)
        if "files" in content:  # the same bytes for the same body
            sent["Content-Type"] = "multipart/form-data; boundary=sample"
        answer = await self.caller.request(operation.method, url, headers=sent, **content)
        holds(operation, answer)
        return answer
