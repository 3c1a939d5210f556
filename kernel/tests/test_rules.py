"""The rules for slices, run over the tests' own, and each of them on what it has to see."""

import copy
from contextlib import nullcontext as does_not_raise
from typing import Annotated, Any, ClassVar

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from pydantic import ConfigDict, StringConstraints
from pydantic import Field as TextField
from sqlalchemy import ARRAY, MetaData, String
from sqlmodel import Field, SQLModel

from features.users.models import User
from kernel.data.models import Input
from kernel.data.paging import Page
from kernel.data.values import Document
from kernel.http.dependencies import Session
from kernel.http.router import Router
from kernel.testing.rules import *  # noqa: F403
from kernel.testing.rules import (
    assembled_sql,
    gaps,
    test_every_slice_has_the_kernels_router,
    unmounted,
    without_answer,
)
from kernel.testing.signatures import *  # noqa: F403
from kernel.testing.signatures import mistakes, unlike
from kernel.testing.walking import Walk


@pytest.mark.parametrize(
    "source",
    [
        "session.exec(text(f'SELECT {name}'))",
        "connection.execute(f'{statement} LIMIT 1')",
        "pool.fetch('SELECT ' + name)",
        "pool.fetchval('SELECT %s' % name)",
        "pool.fetchrow('SELECT {}'.format(name))",
        "text(', '.join(names))",
        "sql = f'SELECT {name} FROM users'",
        "sql = 'delete from ' + name",
    ],
)
def test_assembled_sql_is_seen(source):
    assert assembled_sql(source) == [1]
    assert assembled_sql("pool.fetch('SELECT $1', f'{name}%')") == []


class Loose(SQLModel):
    title: str = Field(max_length=9)


class Nesting(Input):
    parts: list[Loose]


class Endless(Input):
    title: str | None = None


class Bottomless(Input):
    kept: Document | None = None
    tree: dict[str, Any] | None = Field(default=None, max_length=9)


async def gives_a_table() -> User: ...
async def gives_tables() -> Page[User] | None: ...
async def takes_a_table(data: User) -> None: ...
async def takes_anything(data: dict[str, str]) -> None: ...
async def takes_unknown_fields(data: Loose) -> None: ...
async def takes_nested_unknown_fields(data: Nesting) -> None: ...
async def takes_any_length(data: Endless) -> None: ...
async def takes_any_depth(data: Bottomless) -> None: ...
async def writes(session: Session) -> None: ...
async def writes_by_the_way(_: Annotated[None, Depends(writes)]) -> None: ...


@pytest.mark.parametrize(
    ("method", "endpoint", "mistake"),
    [
        ("GET", gives_a_table, "has the table User in its signature"),
        ("GET", gives_tables, "has the table User in its signature"),
        ("POST", takes_a_table, "has the table User in its signature"),
        ("POST", takes_anything, "takes a body that is no model"),
        ("POST", takes_unknown_fields, "lets unknown fields of Loose pass"),
        ("POST", takes_nested_unknown_fields, "lets unknown fields of Loose pass"),
        ("POST", takes_any_length, "sets no bound to Endless.title"),
        ("POST", takes_any_depth, "lets any JSON into Bottomless.tree"),
        ("GET", writes, "reads, and has a session to write with"),
        ("GET", writes_by_the_way, "reads, and has a session to write with"),
    ],
)
def test_a_mistaken_signature_is_seen(method, endpoint, mistake):
    router, app = APIRouter(), FastAPI()
    router.add_api_route("", endpoint, methods=[method])
    app.include_router(router, prefix="/x")
    assert f"/x {mistake}" in mistakes(app)


class Foreign(Loose):
    model_config = ConfigDict(extra="ignore")


async def takes_what_others_define(data: Foreign) -> None: ...


def test_a_body_that_others_define_may_let_unknown_fields_pass():
    router, app = APIRouter(), FastAPI()
    router.post("/x")(takes_what_others_define)
    app.include_router(router)
    assert mistakes(app) == []


@pytest.mark.parametrize(
    ("damage", "gap"),
    [
        ({"operationId": None}, "has no operationId of its own"),
        ({"operationId": "list_users"}, "has no operationId of its own"),
        ({"summary": ""}, "has no summary"),
        ({"tags": ["users", "me"]}, "has not one tag"),
        ({"responses": {"200": None}}, "does not describe its success"),
        ({"responses": {"200": {"content": None}}}, "does not describe its success"),
        (
            {"responses": {"200": {"content": {"application/json": {"schema": {}}}}}},
            "does not describe its success",
        ),
        ({"responses": {"default": None}}, "does not declare its other errors"),
        ({"responses": {"401": {"content": None}}}, "has an error that is no Problem"),
        (
            {"responses": {"422": {"content": {"text/plain": {}}}}},
            "has an error that is no Problem",
        ),
    ],
)
def test_a_gap_in_the_description_is_seen(walk, damage, gap):
    document = copy.deepcopy(walk.app.openapi())
    merge(document["paths"]["/users/me"]["get"], damage)
    known = gaps(walk.app.openapi())
    assert [each for each in gaps(document) if each not in known] == [f"get /users/me {gap}"]


def merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """A JSON Merge Patch (RFC 7396): None removes."""
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif value and isinstance(value, dict):
            merge(target.setdefault(name, {}), value)
        else:
            target[name] = value


class UserShort(Input):
    full_name: str = Field(max_length=99)


class MeEndless(Input):
    full_name: str | None = None


def test_another_length_is_seen():
    assert unlike([User, UserShort, MeEndless]) == ["UserShort.full_name", "MeEndless.full_name"]


class Crate(SQLModel, table=True):
    metadata: ClassVar[MetaData] = MetaData()  # no migration is to make it
    __tablename__ = "crates"

    id: int = Field(primary_key=True)
    labels: list[str] = Field(sa_type=ARRAY(String(9)))


class CrateCreate(Input):
    labels: list[Annotated[str, StringConstraints(max_length=9)]]


class CrateOfFew(Input):
    labels: list[Annotated[str, StringConstraints(max_length=9)]] = Field(max_length=3)


class CrateOrNone(Input):
    labels: list[Annotated[str, TextField(max_length=9)]] | None = Field(None, max_length=20)


class CrateUpdate(Input):
    labels: list[Annotated[str, StringConstraints(max_length=10)]]


class CrateOfNine(Input):
    labels: list[str] = Field(max_length=9)


def test_the_texts_of_an_array_are_as_long_in_a_body_as_in_its_column():
    known = [Crate, CrateCreate, CrateOfFew, CrateOrNone]
    assert unlike([*known, CrateUpdate, CrateOfNine]) == [
        "CrateUpdate.labels",
        "CrateOfNine.labels",
    ]


async def takes_endless_texts(data: CrateOfNine) -> None: ...


def test_how_many_texts_there_are_says_nothing_of_how_long_they_are():
    app = FastAPI()
    app.post("/x")(takes_endless_texts)
    assert mistakes(app) == ["/x sets no bound to CrateOfNine.labels"]


# What has no answer, and a router that is not the kernel's.


PEELINGS = ("kernel.tests.peelings",)


def plain_walk():
    router, app = APIRouter(), FastAPI()

    @router.post("/orders", status_code=202)
    async def order() -> None: ...

    @router.get("/orders")
    async def orders(): ...

    for endpoint in (order, orders):
        endpoint.__module__ = "kernel.tests.peelings.router"
    app.include_router(router)
    return Walk(lambda _: app, PEELINGS)


def test_an_endpoint_that_returns_none_needs_no_description():
    assert [*without_answer(plain_walk().app)] == ["post /orders"]


def test_a_router_of_fastapis_own_is_seen():
    with pytest.raises(AssertionError, match="/orders is of FastAPI's own APIRouter"):
        test_every_slice_has_the_kernels_router(plain_walk())


def test_a_websocket_of_the_kernels_router_is_one():
    async def orders() -> None: ...
    async def live(socket: WebSocket) -> None: ...

    orders.__module__ = live.__module__ = "kernel.tests.peelings.router"
    refused = pytest.raises(AssertionError, match="/live is of FastAPI's own APIRouter")
    for router, expected in ((Router(), does_not_raise()), (APIRouter(), refused)):
        app, own = FastAPI(), Router()
        own.add_api_route("/orders", orders)
        router.add_api_websocket_route("/live", live)
        app.include_router(own)
        app.include_router(router)
        with expected:
            test_every_slice_has_the_kernels_router(Walk(lambda _, app=app: app, PEELINGS))


def test_a_slice_that_is_not_mounted_is_seen():
    assert "features.users.router is not mounted: app.include_router(…) in service.py" in unmounted(
        plain_walk().app
    )
