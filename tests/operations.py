"""Every operation of the app, out of its OpenAPI document, and a valid request for each.

Tests that walk these cover a slice as soon as it is mounted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
from fastapi import FastAPI
from sqlmodel import SQLModel

from tests.fixtures import PASSWORD, Caller

METHODS = ("get", "post", "put", "patch", "delete")
# Where the schema alone does not tell what is valid.
SAMPLES: dict[str, Callable[[int], dict[str, Any]]] = {
    "create_token": lambda _: {"username": "", "password": PASSWORD},
    "update_me": lambda number: {"full_name": f"Sampler {number}"},
}
_numbers = count(1)
REFERENCES = {
    (table.name, key.parent.name): key.column.table.name
    for table in SQLModel.metadata.tables.values()
    for key in table.foreign_keys
}


@dataclass(frozen=True)
class Operation:
    """One method of one path; `document` is the whole OpenAPI document."""

    method: str
    path: str
    spec: dict[str, Any] = field(repr=False, hash=False)
    document: dict[str, Any] = field(repr=False, hash=False)

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
        return self.resolve(next(iter(content.values()))["schema"]) if content else None

    @property
    def is_form(self) -> bool:
        content = self.spec.get("requestBody", {}).get("content", {})
        return "application/json" not in content

    @property
    def answers_with_a_secret(self) -> bool:
        """Whether its answer is too secret to be kept for a replay."""
        given = self.spec.get("parameters", [])
        return any("secret" in each.get("description", "") for each in given)

    def parameters(self, place: str) -> dict[str, dict[str, Any]]:
        """The schemas of the parameters in `path`, `query` or `header`."""
        given = self.spec.get("parameters", [])
        return {each["name"]: self.resolve(each["schema"]) for each in given if each["in"] == place}

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
        if self.name in SAMPLES:
            return SAMPLES[self.name](next(_numbers))
        properties = self.body.get("properties", {})
        return {name: self.value(schema) for name, schema in properties.items()}

    def value(self, schema: dict[str, Any]) -> Any:
        """A valid value of the field or parameter."""
        schema, number = self.resolve(schema), next(_numbers)
        kind = schema.get("format") or schema.get("type")
        values: dict[str | None, Any] = {
            "email": f"sample{number}@example.com",
            "password": PASSWORD,
            "uuid": f"00000000-0000-4000-8000-{number:012d}",
            "date": f"2030-01-{number % 28 + 1:02}",
            "date-time": f"2030-01-02T03:{number % 60:02}:05Z",
            "integer": min(max(number, schema.get("minimum", 1)), schema.get("maximum", number)),
            "number": number + 0.5,
            "boolean": True,
            "array": [],
            "object": {},
            "string": f"sample {number}"[: schema.get("maxLength")],
        }
        return schema["enum"][0] if "enum" in schema else values[kind]


def operations(app: FastAPI) -> Iterator[Operation]:
    """All operations of the app, in the order of its document."""
    document = app.openapi()
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                yield Operation(method.upper(), path, methods[method], document)


def writes(app: FastAPI) -> list[Operation]:
    """The operations that may change something."""
    return [each for each in operations(app) if each.method != "GET"]


class Sampler:
    """Calls operations with valid requests, as an admin, making the rows that paths name."""

    def __init__(self, app: FastAPI, caller: Caller) -> None:
        self.operations = {(each.method, each.path): each for each in operations(app)}
        self.caller = caller
        self.made: dict[str, int] = {}

    async def url(self, operation: Operation) -> str:
        """The operation's path, about a row that was made for it."""
        url = operation.path
        for name in operation.parameters("path"):
            collection = operation.path.partition(f"/{{{name}}}")[0]
            made = await self.call(self.operations["POST", collection])
            url = url.replace(f"{{{name}}}", str(made.json()["id"]))
        return url

    async def body(self, operation: Operation) -> dict[str, Any] | None:
        """A valid body, with things in it that only the service can give."""
        body = operation.sample()
        body = body or {}
        for name in body:
            if table := REFERENCES.get((operation.path.split("/")[1], name)):
                if table not in self.made:
                    make = self.operations["POST", f"/{table}"]
                    self.made[table] = (await self.call(make)).json()["id"]
                body[name] = self.made[table]
        if body and "username" in body:
            body["username"] = self.caller.email
        if body and "refresh_token" in body:
            form = {"username": self.caller.email, "password": PASSWORD}
            tokens = await self.caller.post("/auth/token", data=form)
            body["refresh_token"] = tokens.json()["refresh_token"]
        return body

    async def call(
        self, operation: Operation, url: str | None = None, body: Any = None, **headers: str
    ) -> httpx.Response:
        """Send a valid request; `headers` are named with underscores."""
        url = url or await self.url(operation)
        body = body or await self.body(operation)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        content = {} if body is None else {"data" if operation.is_form else "json": body}
        return await self.caller.request(operation.method, url, headers=sent, **content)
