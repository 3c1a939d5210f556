# ruff: noqa: C901, PLR0915  # a chapter is one function, so that each router has its own
"""What FastAPI's documentation shows, chapter by chapter, for any kind of router.

`mount(app, Router)` puts the same definitions on an app; test_fastapi.py asks two apps the same.
"""

import dataclasses
import enum
import functools
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
    UploadFile,
    WebSocket,
    status,
)
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBasic, HTTPBasicCredentials, SecurityScopes
from fastapi.sse import EventSourceResponse
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    computed_field,
    field_serializer,
    field_validator,
    model_validator,
)
from starlette.requests import HTTPConnection
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

MakeRouter = Callable[..., APIRouter]


class Model(enum.StrEnum):
    ALEX = "alexnet"
    RES = "resnet"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Image(BaseModel):
    url: str
    name: str = "?"


class Item(BaseModel):
    name: str = Field(min_length=1, max_length=20)
    description: str | None = None
    price: float = Field(gt=0)
    tax: float | None = None
    tags: list[str] = []
    image: Image | None = None


class Priced(BaseModel):
    name: str
    price: float


class Person(BaseModel):
    name: str


class PersonIn(Person):
    password: str


class Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    limit: int = Field(100, gt=0, le=100)
    order: Literal["new", "old"] = "new"
    tags: list[str] = []


class Heads(BaseModel):
    x_host: str
    x_tag: list[str] = []


class Cookies(BaseModel):
    session: str
    tracker: str | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: str


class Marked(BaseModel):
    text: str

    @model_validator(mode="after")
    def _mark(self) -> "Marked":
        self.__dict__["text"] += "!"
        return self


class Aliased(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)
    full_name: str = Field(alias="fullName")
    size: int = Field(default=1, validation_alias="sizeIn", serialization_alias="sizeOut")


class Computed(BaseModel):
    width: int
    when: datetime = datetime(2026, 1, 2, tzinfo=UTC)

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented way
    @property
    def area(self) -> int:
        return self.width**2

    @field_serializer("when")
    def _year(self, when: datetime) -> int:
        return when.year


class Checked(BaseModel):
    first: str
    second: str

    @field_validator("first")
    @classmethod
    def _upper(cls, value: str) -> str:
        return value.upper()

    @model_validator(mode="after")
    def _same(self) -> "Checked":
        if self.first != self.second.upper():
            raise ValueError("not the same")
        return self


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    count: int


class Names(RootModel[list[str]]):
    pass


@dataclasses.dataclass
class Thing:
    name: str
    tags: list[str] = dataclasses.field(default_factory=list)


class Row:
    """As an ORM's row: attributes, and no dict."""

    def __init__(self) -> None:
        self.name, self.price = "row", 2.0


class Plain(BaseModel):
    got: Any = None


def path_parameters(router: APIRouter) -> None:
    @router.get("/path/text/{text}")
    async def path_text(text: str) -> Plain:
        return Plain(got=text)

    @router.get("/path/number/{number}")
    async def path_number(number: Annotated[int, Path(title="N", ge=1, le=1000)]) -> Plain:
        return Plain(got=number)

    @router.get("/path/float/{number}")
    async def path_float(number: Annotated[float, Path(gt=0, lt=10.5)]) -> Plain:
        return Plain(got=number)

    @router.get("/path/enum/{model}/{level}")
    async def path_enum(model: Model, level: Level) -> Plain:
        return Plain(got=[model, level])

    @router.get("/path/file/{file:path}")
    async def path_file(file: str) -> Plain:
        return Plain(got=file)

    @router.get("/path/int/{number:int}")
    async def path_int(number: int, request: Request) -> Plain:
        return Plain(got=[number, type(request.path_params["number"]).__name__])

    @router.get("/path/uuid/{key:uuid}")
    async def path_uuid(key: UUID, request: Request) -> Plain:
        return Plain(got=[key, type(request.path_params["key"]).__name__])

    @router.get("/path/types/{day}/{key}/{amount}/{span}")
    async def path_types(day: date, key: UUID, amount: Decimal, span: timedelta) -> Plain:
        return Plain(got=[day, key, amount, span])

    @router.get("/path/alias/{item-id}")
    async def path_alias(item_id: Annotated[str, Path(alias="item-id")]) -> Plain:
        return Plain(got=item_id)

    @router.get("/path/me")
    async def path_me() -> Plain:
        return Plain(got="me")

    @router.get("/path/{anything}")
    async def path_anything(anything: str) -> Plain:
        return Plain(got=f"anything: {anything}")


def query_parameters(router: APIRouter) -> None:
    @router.get("/query/simple")
    async def query_simple(needed: str, skip: int = 0, q: str | None = None) -> Plain:
        return Plain(got=[needed, skip, q])

    @router.get("/query/needed-or-none")
    async def query_needed_or_none(q: str | None, on: bool = False) -> Plain:
        return Plain(got=[q, on])

    @router.get("/query/rules")
    async def query_rules(
        q: Annotated[str, Query(min_length=2, max_length=5, pattern="^[a-z]+$")] = "abc",
        size: Annotated[float, Query(gt=0, le=1.5, allow_inf_nan=False)] = 1,
    ) -> Plain:
        return Plain(got=[q, size])

    @router.get("/query/alias")
    async def query_alias(
        q: Annotated[str | None, Query(alias="item-query", deprecated=True)] = None,
        hidden: Annotated[str | None, Query(include_in_schema=False)] = None,
        other: Annotated[str | None, Query(validation_alias="else")] = None,
        choice: Annotated[str | None, Query(validation_alias=AliasChoices("a", "b"))] = None,
    ) -> Plain:
        return Plain(got=[q, hidden, other, choice])

    @router.get("/query/many")
    async def query_many(
        q: Annotated[list[str], Query()] = ["foo"],  # noqa: B006  # as documented
        ids: Annotated[set[int] | None, Query()] = None,
    ) -> Plain:
        return Plain(got=[q, sorted(ids or ())])

    @router.get("/query/model")
    async def query_model(filters: Annotated[Filters, Query()]) -> Filters:
        return filters

    @router.get("/query/enum")
    async def query_enum(
        model: Model = Model.RES, level: Level | None = None, mode: Literal["a", 2] = "a"
    ) -> Plain:
        return Plain(got=[model, level, mode])

    @router.get("/query/validators")
    async def query_validators(
        word: Annotated[
            str, BeforeValidator(str.upper), Query(validate_default=True, max_length=5)
        ] = "abc",
        even: Annotated[int, AfterValidator(_even)] = 2,
        strict: Annotated[int, Query(strict=True)] = 1,
    ) -> Plain:
        return Plain(got=[word, even, strict])

    @router.get("/query/made")
    async def query_made(numbers: Annotated[str, Query(default_factory=_made)]) -> Plain:
        return Plain(got=numbers)

    @router.get("/query/default-object")
    async def query_default_object(at: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> Plain:
        return Plain(got=at)

    @router.get("/query/union")
    async def query_union(value: int | bool | str = 0) -> Plain:
        return Plain(got=[value, type(value).__name__])


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("should be even")
    return value


def _made() -> str:
    return "made"


def headers_and_cookies(router: APIRouter) -> None:
    @router.get("/header")
    async def header(
        user_agent: Annotated[str | None, Header()] = None,
        x_token: Annotated[list[str] | None, Header()] = None,
        strange_header: Annotated[str | None, Header(convert_underscores=False)] = None,
    ) -> Plain:
        return Plain(got=[user_agent, x_token, strange_header])

    @router.get("/header/model")
    async def header_model(heads: Annotated[Heads, Header()]) -> Heads:
        return heads

    @router.get("/cookie")
    async def cookie(ads_id: Annotated[int | None, Cookie()] = None) -> Plain:
        return Plain(got=ads_id)

    @router.get("/cookie/model")
    async def cookie_model(cookies: Annotated[Cookies, Cookie()]) -> Cookies:
        return cookies


def bodies(router: APIRouter) -> None:
    @router.post("/body/item")
    async def body_item(item: Item) -> Item:
        return item

    @router.put("/body/mixed/{key}")
    async def body_mixed(key: int, item: Item, q: str | None = None) -> Plain:
        return Plain(got=[key, item, q])

    @router.post("/body/optional")
    async def body_optional(item: Item | None = None) -> Plain:
        return Plain(got=item)

    @router.post("/body/several")
    async def body_several(
        item: Item, person: Person, importance: Annotated[int, Body(gt=0)] = 1
    ) -> Plain:
        return Plain(got=[item.name, person.name, importance])

    @router.post("/body/embed")
    async def body_embed(item: Annotated[Person, Body(embed=True)]) -> Plain:
        return Plain(got=item.name)

    @router.post("/body/embed-default")
    async def body_embed_default(
        item: Annotated[Person, Body(embed=True)] = Person(name="x"),  # noqa: B008  # as documented
    ) -> Plain:
        return Plain(got=item.name)

    @router.post("/body/embed-alias")
    async def body_embed_alias(item: Annotated[Person, Body(alias="u", embed=True)]) -> Plain:
        return Plain(got=item.name)

    @router.post("/body/alias")
    async def body_alias(item: Annotated[Person, Body(alias="u")]) -> Plain:
        return Plain(got=item.name)

    @router.post("/body/scalar")
    async def body_scalar(name: Annotated[str, Body(max_length=5)]) -> Plain:
        return Plain(got=name)

    @router.post("/body/list")
    async def body_list(items: list[Image]) -> Plain:
        return Plain(got=items)

    @router.post("/body/dict")
    async def body_dict(weights: dict[int, float]) -> Plain:
        return Plain(got=weights)

    @router.post("/body/any")
    async def body_any(data: Annotated[Any, Body()]) -> Plain:
        return Plain(got=data)

    @router.post("/body/union")
    async def body_union(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> Plain:
        return Plain(got=type(pet).__name__)

    @router.post("/body/union-body")
    async def body_union_body(pet: Annotated[Cat | Dog, Body(discriminator="kind")]) -> Plain:
        return Plain(got=type(pet).__name__)

    @router.post("/body/aliased")
    async def body_aliased(data: Aliased) -> Aliased:
        return data

    @router.post("/body/checked")
    async def body_checked(data: Checked) -> Checked:
        return data

    @router.post("/body/strict")
    async def body_strict(data: Strict) -> Strict:
        return data

    @router.post("/body/root")
    async def body_root(names: Names) -> Names:
        return names

    @router.post("/body/dataclass")
    async def body_dataclass(thing: Thing) -> Thing:
        return thing

    @router.post("/body/limited", max_body_size=20)
    async def body_limited(item: Person) -> Plain:
        return Plain(got=item.name)

    @router.patch("/body/update")
    async def body_update(item: Item) -> Any:
        return jsonable_encoder(item.model_dump(exclude_unset=True))

    @router.delete("/body/deleted", status_code=204)
    async def body_deleted(person: Person) -> None:
        pass


def response_models(router: APIRouter) -> None:
    @router.get("/answer/filtered", response_model=Person)
    async def answer_filtered() -> Any:
        return PersonIn(name="Ada", password="secret")

    @router.get("/answer/subclass")
    async def answer_subclass() -> Person:
        return PersonIn(name="Ada", password="secret")

    @router.get("/answer/subclasses")
    async def answer_subclasses() -> list[Person]:
        return [PersonIn(name="Ada", password="secret"), Person(name="Bob")]

    @router.get("/answer/dict")
    async def answer_dict() -> Priced:
        return {"name": "dict", "price": "1.5", "more": 1}  # type: ignore[return-value]  # FastAPI makes it one

    @router.get("/answer/row")
    async def answer_row() -> Priced:
        return Row()  # type: ignore[return-value]  # FastAPI makes it one

    @router.get("/answer/wrong")
    async def answer_wrong() -> Priced:
        return {"name": "wrong"}  # type: ignore[return-value]  # FastAPI refuses it

    @router.get("/answer/nothing-declared")
    async def answer_nothing_declared():  # type: ignore[no-untyped-def]  # what it is about
        return {"when": datetime(2026, 1, 1, tzinfo=UTC), "ids": {1}}

    @router.get("/answer/unset", response_model_exclude_unset=True)
    async def answer_unset() -> Item:
        return Item(name="a", price=1)

    @router.get("/answer/defaults", response_model_exclude_defaults=True)
    async def answer_defaults() -> Item:
        return Item(name="a", price=1, tax=None)

    @router.get("/answer/none", response_model_exclude_none=True)
    async def answer_none() -> Item:
        return Item(name="a", price=1)

    @router.get("/answer/include", response_model_include={"name"})
    async def answer_include() -> Item:
        return Item(name="a", price=1)

    @router.get("/answer/include-nothing", response_model_include=set())
    async def answer_include_nothing() -> Item:
        return Item(name="a", price=1)

    @router.get("/answer/exclude", response_model_exclude={"price"})
    async def answer_exclude() -> Item:
        return Item(name="a", price=1)

    @router.get("/answer/by-name", response_model_by_alias=False)
    async def answer_by_name() -> Aliased:
        return Aliased(full_name="Ada")

    @router.get("/answer/by-alias")
    async def answer_by_alias() -> Aliased:
        return Aliased(full_name="Ada")

    @router.get("/answer/computed")
    async def answer_computed() -> Computed:
        return Computed(width=3)

    @router.get("/answer/marked")
    async def answer_marked() -> Marked:
        return Marked.model_construct(text="seen")

    @router.get("/answer/marked-many")
    async def answer_marked_many() -> list[Marked]:
        return [Marked.model_construct(text="seen")]

    @router.get("/answer/union")
    async def answer_union(cat: bool = True) -> Cat | Dog:
        return Cat(kind="cat", lives=9) if cat else Dog(kind="dog", bark="wow")

    @router.get("/answer/optional")
    async def answer_optional(there: bool = False) -> Person | None:
        return Person(name="Ada") if there else None

    @router.get("/answer/numbers")
    async def answer_numbers() -> dict[str, float]:
        return {"a": 1, "inf": float("inf")}

    @router.get("/answer/text")
    async def answer_text() -> str:
        return "text"

    @router.get("/answer/decimal")
    async def answer_decimal() -> list[Decimal | timedelta | UUID | bytes]:
        return [Decimal("1.10"), timedelta(seconds=90), UUID(int=7), b"bytes"]

    @router.get("/answer/dataclass")
    async def answer_dataclass() -> Thing:
        return Thing("a", ["b"])

    @router.get("/answer/none-declared")
    async def answer_none_declared() -> None:
        return None

    @router.get("/answer/off", response_model=None)
    async def answer_off() -> Response | dict[str, int]:
        return {"a": 1}


def statuses_and_responses(router: APIRouter) -> None:
    @router.post("/status/created", status_code=status.HTTP_201_CREATED)
    async def status_created(name: str) -> Plain:
        return Plain(got=name)

    @router.delete("/status/nothing", status_code=204)
    async def status_nothing() -> None:
        pass

    @router.delete("/status/something", status_code=204)
    async def status_something() -> None:
        return {"ignored": 1}  # type: ignore[return-value]  # what it is about

    @router.get("/status/unmodified", status_code=304)
    async def status_unmodified() -> None:
        pass

    @router.put("/status/changed/{name}")
    async def status_changed(name: str, response: Response) -> Plain:
        if name == "new":
            response.status_code = 201
        response.headers["X-Cat"] = "alone"
        response.set_cookie("fake", "session")
        return Plain(got=name)

    @router.get("/response/json")
    async def response_json() -> JSONResponse:
        return JSONResponse({"a": 1}, 202, {"X-Own": "1"})

    @router.get("/response/in-model", responses={202: {"description": "Later"}})
    async def response_in_model() -> Plain:
        return JSONResponse({"b": 2}, 202)  # type: ignore[return-value]  # as documented

    @router.get("/response/html", response_class=HTMLResponse)
    async def response_html() -> str:
        return "<p>text</p>"

    @router.get("/response/plain", response_class=PlainTextResponse)
    async def response_plain() -> str:
        return "text"

    @router.get("/response/redirect", response_class=RedirectResponse)
    async def response_redirect() -> str:
        return "/elsewhere"

    @router.get("/response/redirect-status", response_class=RedirectResponse, status_code=302)
    async def response_redirect_status() -> str:
        return "/elsewhere"

    @router.get("/response/stream")
    async def response_stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a", b"b"]), media_type="text/plain")

    @router.get("/response/background")
    async def response_background(tasks: BackgroundTasks, told: list[str] = _TOLD) -> Plain:
        tasks.add_task(told.append, "done")
        return Plain(got=len(told))

    @router.get("/response/lines")
    async def response_lines() -> AsyncIterator[Priced]:
        yield Priced(name="a", price=1)
        yield {"name": "b", "price": 2}  # type: ignore[misc]  # FastAPI makes it one

    @router.get("/response/threaded-lines")
    def response_threaded_lines() -> Iterator[Priced]:
        yield Priced(name="a", price=1)

    @router.get("/response/events", response_class=EventSourceResponse)
    async def response_events() -> AsyncIterator[Priced]:
        yield Priced(name="a", price=1)


_TOLD: Any = Depends(list)


def forms_and_files(router: APIRouter) -> None:
    @router.post("/form")
    async def form(
        username: Annotated[str, Form()], age: Annotated[int | None, Form()] = None
    ) -> Plain:
        return Plain(got=[username, age])

    @router.post("/form/model")
    async def form_model(person: Annotated[PersonIn, Form()]) -> Person:
        return person

    @router.post("/form/limits", form_limits={"max_fields": 2})
    async def form_limits(a: Annotated[str, Form()]) -> Plain:
        return Plain(got=a)

    @router.post("/file")
    async def file(data: Annotated[bytes, File()]) -> Plain:
        return Plain(got=len(data))

    @router.post("/files")
    async def files(uploads: list[UploadFile], token: Annotated[str, Form()]) -> Plain:
        return Plain(got=[[each.filename, len(await each.read())] for each in uploads] + [token])


class Teapot(Exception):
    pass


def errors(router: APIRouter) -> None:
    @router.get("/error/http")
    async def error_http() -> Plain:
        raise HTTPException(404, "no such thing", {"X-Error": "here"})

    @router.get("/error/own")
    async def error_own() -> Plain:
        raise Teapot

    @router.post("/error/own")
    async def error_own_with_a_body(item: Person) -> Plain:
        raise Teapot

    @router.get("/error/unhandled")
    async def error_unhandled() -> Plain:
        raise RuntimeError("private")

    @router.get("/error/raised-validation")
    async def error_raised_validation() -> Plain:
        raise RequestValidationError(
            [{"loc": ("query", "x"), "type": "own", "msg": "own", "input": 1}]
        )


async def _on_teapot(request: Request, error: Exception) -> Response:
    # A handler may read the body again, as FastAPI keeps it.
    body = (await request.body()).decode()
    return JSONResponse({"body": body, "path": request.url.path}, 418)


NOTES: ContextVar[str] = ContextVar("notes", default="nothing")


class Pagination:
    def __init__(self, skip: int = 0, limit: int = 10) -> None:
        self.skip, self.limit = skip, limit


class Awaitably:
    """Its instances can be called; the class itself is a dependency like any other."""

    def __init__(self, q: str = "x") -> None:
        self.q = q

    async def __call__(self, more: str = "y") -> str:
        return self.q + more


def dependencies(router: APIRouter) -> None:
    numbers = itertools.count(1)
    events: list[str] = []

    async def next_number() -> int:
        return next(numbers)

    def threaded(q: str = "t") -> str:
        return q

    async def note(note: str = "noted") -> str:
        NOTES.set(note)
        return note

    async def inner(x_token: Annotated[str | None, Header()] = None) -> str | None:
        return x_token

    async def outer(token: Annotated[str | None, Depends(inner)], q: int = 0) -> Any:
        return [token, q]

    async def opened() -> AsyncIterator[str]:
        events.append("open")
        try:
            yield "opened"
        except Teapot:
            events.append("failed")
            raise
        finally:
            events.append("closed")

    async def refuses(token: str = "") -> None:
        if token != "right":
            raise HTTPException(400, "wrong token")

    async def strict_number(number: int) -> int:
        events.append(f"number {number}")
        return number

    async def depends_on_number(number: Annotated[int, Depends(strict_number)]) -> int:
        return number + 1

    def wrapped(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return [await function(*args, **kwargs), "wrapped"]

        return wrapper

    @wrapped
    async def decorated(q: str = "d") -> str:
        return q

    async def of_two(first: str, second: str = "s") -> str:
        return first + second

    partial = functools.partial(of_two, "p")

    @router.get("/depends/class")
    async def depends_class(page: Annotated[Pagination, Depends()]) -> Plain:
        return Plain(got=[page.skip, page.limit])

    @router.get("/depends/instance")
    async def depends_instance(text: Annotated[str, Depends(Awaitably("z"))]) -> Plain:
        return Plain(got=text)

    @router.get("/depends/awaitable-class")
    async def depends_awaitable_class(made: Annotated[Any, Depends(Awaitably)]) -> Plain:
        return Plain(got=[type(made).__name__, made.q])

    @router.get("/depends/thread")
    async def depends_thread(text: Annotated[str, Depends(threaded)]) -> Plain:
        return Plain(got=text)

    @router.get("/depends/sub")
    async def depends_sub(pair: Annotated[Any, Depends(outer)]) -> Plain:
        return Plain(got=pair)

    @router.get("/depends/cached")
    async def depends_cached(
        first: Annotated[int, Depends(next_number)], again: Annotated[int, Depends(next_number)]
    ) -> Plain:
        return Plain(got=again - first)

    @router.get("/depends/fresh")
    async def depends_fresh(
        first: Annotated[int, Depends(next_number)],
        fresh: Annotated[int, Depends(next_number, use_cache=False)],
        again: Annotated[int, Depends(next_number)],
    ) -> Plain:
        return Plain(got=[fresh - first, again - first])

    @router.get("/depends/scoped")
    async def depends_scoped(
        first: Annotated[int, Depends(next_number)],
        scoped: Annotated[int, Depends(next_number, scope="function")],
    ) -> Plain:
        return Plain(got=scoped - first)

    @router.get("/depends/at-most")
    async def depends_at_most(
        number: Annotated[int, Depends(next_number, max_concurrency=1)],
    ) -> Plain:
        return Plain(got=number > 0)

    @router.get("/depends/yield")
    async def depends_yield(got: Annotated[str, Depends(opened)], fail: bool = False) -> Plain:
        if fail:
            raise Teapot
        return Plain(got=got)

    @router.get("/depends/events")
    async def depends_events() -> Plain:
        return Plain(got=events)

    @router.get("/depends/decorator", dependencies=[Depends(refuses), Depends(note)])
    async def depends_decorator() -> Plain:
        return Plain(got=NOTES.get())

    @router.get("/depends/order", dependencies=[Depends(refuses)])
    async def depends_order(number: int) -> Plain:
        return Plain(got=number)

    @router.get("/depends/noted")
    async def depends_noted(
        _: Annotated[str, Depends(note)],
        seen: Annotated[str, AfterValidator(lambda text: f"{text} {NOTES.get()}"), Query()],
    ) -> Plain:
        return Plain(got=seen)

    @router.post("/depends/noted-body")
    async def depends_noted_body(_: Annotated[str, Depends(note)], data: "Noted") -> Plain:
        return Plain(got=data.text)

    @router.get("/depends/errors")
    async def depends_errors(
        first: Annotated[int, Depends(depends_on_number)],
        second: Annotated[int, Depends(strict_number)],
        size: int,
        q: Annotated[str, Query(max_length=2)] = "",
    ) -> Plain:
        return Plain(got=[first, second, size, q])

    @router.get("/depends/decorated")
    async def depends_decorated(got: Annotated[Any, Depends(decorated)]) -> Plain:
        return Plain(got=got)

    @router.get("/depends/partial")
    async def depends_partial(got: Annotated[str, Depends(partial)]) -> Plain:
        return Plain(got=got)

    @router.get("/depends/method")
    async def depends_method(got: Annotated[str, Depends(Awaitably("m").__call__)]) -> Plain:
        return Plain(got=got)

    @router.get("/depends/endpoint-in-a-thread")
    def depends_endpoint_in_a_thread(q: int = 1) -> Plain:
        return Plain(got=q)

    @router.get("/depends/connection")
    async def depends_connection(connection: HTTPConnection, request: Request) -> Plain:
        return Plain(got=[connection.url.path, connection is request])

    @router.get("/depends/lambda")
    async def depends_lambda(got: Annotated[int, Depends(lambda: 7)]) -> Plain:
        return Plain(got=got)

    router.get("/depends/called", name="called")(Awaitably("c"))
    router.get("/depends/partially", name="partially")(partial)


class Noted(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def _note(cls, value: str) -> str:
        return f"{value} {NOTES.get()}"


def security(router: APIRouter) -> None:
    basic, key = HTTPBasic(), APIKeyHeader(name="X-Key", auto_error=False)

    async def scopes(security_scopes: SecurityScopes) -> str:
        return security_scopes.scope_str

    @router.get("/security/basic")
    async def security_basic(who: Annotated[HTTPBasicCredentials, Depends(basic)]) -> Plain:
        return Plain(got=who.username)

    @router.get("/security/key")
    async def security_key(value: Annotated[str | None, Security(key)]) -> Plain:
        return Plain(got=value)

    @router.get("/security/scopes")
    async def security_scopes(got: Annotated[str, Security(scopes, scopes=["me", "it"])]) -> Plain:
        return Plain(got=got)


class Versioned(APIRoute):
    """A route for requests that name version 2 in a header."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and (b"x-version", b"2") in scope["headers"]:
            return super().matches(scope)
        return Match.NONE, {}


class Timed(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()

        async def timed(request: Request) -> Response:
            response: Response = await handler(request)
            response.headers["X-Timed"] = "yes"
            return response

        return timed


class Refusing(APIRoute):
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (b"x-refuse", b"yes") in scope["headers"]:
            raise HTTPException(403, "refused")
        await super().handle(scope, receive, send)


class Gate(APIRouter):
    """A router that is closed to whoever has no key."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and (b"x-gate", b"open") not in scope["headers"]:
            return Match.NONE, {}
        return super().matches(scope)


def custom_routes(app: FastAPI, make: MakeRouter) -> None:
    for route_class in (Versioned, Timed, Refusing):
        router = make(route_class=route_class, tags=["custom"])
        name = route_class.__name__.lower()

        @router.get(f"/custom/{name}", name=name)
        @router.post(f"/custom/{name}", name=f"post_{name}")
        async def custom() -> Plain:
            return Plain(got="custom")

        app.include_router(router)

    behind = make(tags=["behind"])

    @behind.get("/custom/versioned", name="behind")
    async def behind_it() -> Plain:
        return Plain(got="version 1")

    app.include_router(behind)
    gate = Gate()

    @gate.get("/custom/gate")
    async def gated() -> Plain:
        return Plain(got="gated")

    app.include_router(gate)

    @behind.get("/custom/gate")
    async def behind_the_gate() -> Plain:
        return Plain(got="not gated")


def bigger_applications(app: FastAPI, make: MakeRouter) -> None:
    async def token(x_token: Annotated[str, Header()]) -> str:
        return x_token

    async def tenant_of(tenant: str) -> str:
        return tenant.upper()

    inner, outer = make(prefix="/inner", tags=["inner"]), make(prefix="/outer", tags=["outer"])

    @inner.get("/{key}")
    async def nested(key: str, request: Request) -> Plain:
        return Plain(got=[key, request.url_for("nested", key="k").path])

    outer.include_router(inner, prefix="/more", dependencies=[Depends(token)])
    app.include_router(outer)

    twice = make(tags=["twice"])

    @twice.get("/twice", operation_id="twice")
    async def twice_mounted(request: Request) -> Plain:
        return Plain(got=request.url.path)

    app.include_router(twice, prefix="/once")
    app.include_router(twice, prefix="/again", include_in_schema=False)

    tenants = make(tags=["tenants"])

    @tenants.get("/things/{thing}")
    async def of_a_tenant(tenant: str, thing: int) -> Plain:
        return Plain(got=[tenant, thing])

    app.include_router(tenants, prefix="/tenants/{tenant}", dependencies=[Depends(tenant_of)])

    small = make(prefix="/small", tags=["small"], max_body_size=20)

    @small.post("/body")
    async def small_body(person: Person) -> Plain:
        return Plain(got=person.name)

    app.include_router(small)
    plain = make(prefix="/plain", tags=["plain"], default_response_class=PlainTextResponse)

    @plain.get("/text")
    async def plain_text() -> str:
        return "plain"

    app.include_router(plain)


def neighbours(app: FastAPI, make: MakeRouter) -> None:
    """What stands beside operations: apps, hosts, routes of Starlette's, sockets, a wildcard."""
    sub = FastAPI()

    @sub.get("/hello/{name}")
    async def hello(name: str, request: Request) -> Plain:
        return Plain(got=[name, request.scope["root_path"]])

    app.mount("/sub", sub)
    app.host("other.example", sub)

    async def starlettes(request: Request) -> Response:
        return PlainTextResponse(f"starlette {request.path_params.get('x')}")

    app.add_route("/starlette/{x:int}", starlettes, include_in_schema=False)
    sockets = make(tags=["sockets"])

    @sockets.websocket("/socket/{room}")
    async def socket(websocket: WebSocket, room: str, q: int = 0) -> None:
        await websocket.accept()
        await websocket.send_json([room, q])
        await websocket.close()

    @sockets.get("/socket/{room}")
    async def no_socket(room: str) -> Plain:
        return Plain(got=f"http {room}")

    app.include_router(sockets)
    wild = make(tags=["wild"])

    @wild.get("/{tenant}/home")
    async def tenants_home(tenant: str) -> Plain:
        return Plain(got=tenant)

    app.include_router(wild)
    late = make(prefix="/late", tags=["late"])

    @late.get("/home")
    async def hidden_by_a_wildcard() -> Plain:
        return Plain(got="never")

    @late.get("/there")
    async def behind_a_wildcard() -> Plain:
        return Plain(got="there")

    app.include_router(late)


CHAPTERS = (
    *(path_parameters, query_parameters, headers_and_cookies, bodies, response_models),
    *(statuses_and_responses, forms_and_files, errors, dependencies, security),
)


def mount(app: FastAPI, make: MakeRouter) -> None:
    """Put all chapters on an app, each on a router that `make` makes."""
    app.add_middleware(CORSMiddleware, allow_origins=["https://good.example"])
    app.add_exception_handler(Teapot, _on_teapot)
    for chapter in CHAPTERS:
        router = make(tags=[chapter.__name__])
        chapter(router)
        app.include_router(router)
    bigger_applications(app, make)
    custom_routes(app, make)
    neighbours(app, make)
