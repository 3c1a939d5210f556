"""Every operation of an app, out of its OpenAPI document.

Tests that walk these cover a slice as soon as it is mounted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Index, Table, UniqueConstraint

from kernel.http.bodies import FORMS, JSON
from kernel.http.openapi import GENERAL, VERSION
from kernel.http.references import table_of, targets
from kernel.testing.hooks import Hooks, endpoints, hooks_of
from kernel.testing.schemas import Field, Place, Schema, Schemas

METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Operation:
    """One method of one path; `document` is the whole OpenAPI document, and `hooks` are those of
    its slice."""

    method: str
    path: str
    spec: Schema = field(repr=False, compare=False)
    document: Schema = field(repr=False, compare=False)
    hooks: Hooks = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def name(self) -> str:
        name: str = self.spec["operationId"]
        return name

    @property
    def title(self) -> str:
        """What a failure calls it."""
        return f"{self} ({self.name})"

    def hook(self, name: str) -> Any:
        """What its slice's tests say of it under this name."""
        return self.hooks.get(name).get(self.name)

    def advise(self, hook: str, value: str) -> str:
        """What to write where, to tell the walks about it."""
        return self.hooks.advise(hook, self.name, value)

    @cached_property
    def schemas(self) -> Schemas:
        return Schemas(self.document)

    @property
    def is_write(self) -> bool:
        """Whether it may change something."""
        return self.method != "GET"

    # What it takes.

    @property
    def media_type(self) -> str | None:
        """The body's."""
        return next(iter(self.spec.get("requestBody", {}).get("content", {})), None)

    @property
    def is_form(self) -> bool:
        return self.media_type in FORMS

    @property
    def is_json(self) -> bool:
        return self.media_type == JSON

    @cached_property
    def body(self) -> Schema | None:
        """The schema of the body, references resolved."""
        content = self.spec.get("requestBody", {}).get("content", {})
        return self.schemas.resolve(content[self.media_type]["schema"]) if content else None

    @cached_property
    def places(self) -> list[Place]:
        """The objects of the body, those within it as well."""
        return list(self.schemas.places(self.body)) if self.body else []

    @cached_property
    def fields(self) -> list[Field]:
        """The fields of all objects of the body."""
        return list(self.schemas.fields(self.body)) if self.body else []

    def parameters(self, place: str, *, required: bool = False) -> dict[str, Schema]:
        """The schemas of the parameters in `path`, `query` or `header`."""
        given = [each for each in self.spec.get("parameters", []) if each["in"] == place]
        named = [each for each in given if each.get("required") or not required]
        return {each["name"]: self.schemas.resolve(each["schema"]) for each in named}

    def value(self, schema: Schema) -> Any:
        """A valid value of a field or parameter; a change's is not the one that the row has."""
        return self.schemas.value(schema, is_change=self.method == "PATCH")

    # What it gives.

    @property
    def success(self) -> Schema:
        """What the document says of the answer when all is well."""
        return next(each for status, each in self.spec["responses"].items() if status[0] == "2")

    def failure(self, status: int) -> Schema | None:
        """What the document says of the failure, itself or as one that any operation may meet."""
        responses: dict[str, Schema] = self.spec["responses"]
        general = responses.get("default") if status in GENERAL else None
        return responses.get(str(status), general)

    @property
    def answer_has_version(self) -> bool:
        """Whether the document says that the ETag has a row's version in front."""
        tag: Schema = self.success.get("headers", {}).get("ETag", {})
        return tag.get("description") == VERSION

    @property
    def answers_with_a_secret(self) -> bool:
        """Whether its answer is too secret to be kept for a replay, or to be rehearsed."""
        return self.is_write and "Prefer" not in self.parameters("header")

    @property
    def takes_key(self) -> bool:
        """Whether it heeds an Idempotency-Key: one that asks for its caller does."""
        return "Idempotency-Key" in self.parameters("header")

    @property
    def is_list(self) -> bool:
        """Whether it gives pages of what another operation of the same path makes."""
        return "cursor" in self.parameters("query") and "post" in self.document["paths"][self.path]

    # What it is about.

    @property
    def table(self) -> Table | None:
        """The table that the path is about: the last of its words that is the name of one."""
        return table_of(self.path)

    @cached_property
    def references(self) -> dict[Field, str]:
        """The fields of the body that refer to another row, and the table of that row."""
        found = {each: self._target(each) for each in self.fields}
        return {each: table for each, table in found.items() if table}

    def _target(self, of: Field) -> str | None:
        is_element = isinstance(of.path[-1], int) and len(of.path) > 1
        name = str(of.path[-2]).removesuffix("s") if is_element else of.name
        tables = {column.table.name for column in targets(name, self.table)}
        return tables.pop() if len(tables) == 1 else None

    @property
    def has_twins(self) -> bool:
        """Whether the table has columns of the body's that no two rows of a caller may share."""
        table, given = self.table, {each.name for each in self.fields}
        rules = () if table is None else (*table.constraints, *table.indexes)
        unique = [
            rule.columns
            for rule in rules
            if isinstance(rule, UniqueConstraint) or (isinstance(rule, Index) and rule.unique)
        ]
        return any(
            {column.name for column in columns if not column.foreign_keys} <= given
            for columns in unique
        )


def operations(app: FastAPI) -> Iterator[Operation]:
    """All operations of the app, in the order of its document."""
    document = app.openapi()
    places = {(method, path): module for method, path, module in endpoints(app)}
    hooks = {module: hooks_of(module) for module in set(places.values())}
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                of_slice = hooks[places[method.upper(), path]]
                yield Operation(method.upper(), path, methods[method], document, of_slice)


def writes(app: FastAPI) -> list[Operation]:
    """The operations that may change something."""
    return [each for each in operations(app) if each.is_write]
