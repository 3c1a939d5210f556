"""The operations of an app, read from its OpenAPI document.

Tests that run over these cover a slice as soon as it is mounted.
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
        """Its name in the message of a failed test: `GET /items (list_items)`."""
        return f"{self} ({self.name})"

    def hook(self, name: str) -> Any:
        """Its entry in the hook of this name, or None."""
        return self.hooks.get(name).get(self.name)

    def advise(self, hook: str, value: str) -> str:
        """What to write into which file, as its entry in this hook."""
        return self.hooks.advise(hook, self.name, value)

    @cached_property
    def schemas(self) -> Schemas:
        return Schemas(self.document)

    @property
    def is_write(self) -> bool:
        """Whether it may change something."""
        return self.method != "GET"

    # The request.

    @property
    def media_type(self) -> str | None:
        """The body's media type, or None without a body."""
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
        """The objects of the body, also nested ones."""
        return list(self.schemas.places(self.body)) if self.body else []

    @cached_property
    def fields(self) -> list[Field]:
        """The fields of all objects of the body."""
        return list(self.schemas.fields(self.body)) if self.body else []

    def parameters(self, place: str, *, required: bool = False) -> dict[str, Schema]:
        """The schemas of the parameters in `path`, `query` or `header`."""
        all_there = [spec for spec in self.spec.get("parameters", []) if spec["in"] == place]
        wanted = [spec for spec in all_there if spec.get("required") or not required]
        return {spec["name"]: self.schemas.resolve(spec["schema"]) for spec in wanted}

    def value(self, schema: Schema) -> Any:
        """A valid value of a field or parameter; of a PATCH, another one than the row has."""
        return self.schemas.value(schema, is_change=self.method == "PATCH")

    # The response.

    @property
    def success(self) -> Schema:
        """The documented response of a 2xx status."""
        responses = self.spec["responses"].items()
        return next(response for status, response in responses if status[0] == "2")

    def failure(self, status: int) -> Schema | None:
        """The documented response of this error status, or the `default` one for those that any
        operation may have."""
        responses: dict[str, Schema] = self.spec["responses"]
        general = responses.get("default") if status in GENERAL else None
        return responses.get(str(status), general)

    @property
    def answer_has_version(self) -> bool:
        """Whether its ETag is documented to begin with a row's version."""
        tag: Schema = self.success.get("headers", {}).get("ETag", {})
        return tag.get("description") == VERSION

    @property
    def answers_with_a_secret(self) -> bool:
        """Whether its answer holds a secret: it is not stored for a replay, and has no dry run."""
        return self.is_write and "Prefer" not in self.parameters("header")

    @property
    def takes_key(self) -> bool:
        """Whether it reads an Idempotency-Key, as writes do that authenticate their caller."""
        return "Idempotency-Key" in self.parameters("header")

    @property
    def has_pages(self) -> bool:
        return "cursor" in self.parameters("query")

    @property
    def is_list(self) -> bool:
        """Whether it returns pages, and a POST of the same path makes their rows."""
        return self.has_pages and "post" in self.document["paths"][self.path]

    # Tables.

    @property
    def table(self) -> Table | None:
        """The table that the path is about: the last of its segments that names one."""
        return table_of(self.path)

    @cached_property
    def references(self) -> dict[Field, str]:
        """The fields of the body that refer to another row, and the table of that row."""
        targets_by_field = {field: self._target(field) for field in self.fields}
        return {field: table for field, table in targets_by_field.items() if table}

    def _target(self, field: Field) -> str | None:
        is_element = isinstance(field.path[-1], int) and len(field.path) > 1
        name = str(field.path[-2]).removesuffix("s") if is_element else field.name
        tables = {column.table.name for column in targets(name, self.table)}
        return tables.pop() if len(tables) == 1 else None

    @property
    def has_twins(self) -> bool:
        """Whether fields of the body make up a unique key of the table, but for foreign keys."""
        table, names = self.table, {field.name for field in self.fields}
        rules = () if table is None else (*table.constraints, *table.indexes)
        unique = [
            rule.columns
            for rule in rules
            if isinstance(rule, UniqueConstraint) or (isinstance(rule, Index) and rule.unique)
        ]
        return any(
            {column.name for column in columns if not column.foreign_keys} <= names
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
    return [operation for operation in operations(app) if operation.is_write]
