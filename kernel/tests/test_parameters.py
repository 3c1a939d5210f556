"""The types of a body's fields in parameters, whose values are text, on FastAPI's way and ours."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial, update_wrapper, wraps
from types import FunctionType
from typing import Annotated, Any, Literal, NamedTuple, NewType

import pytest
from fastapi import APIRouter, Body, Cookie, Depends, Form, Header, Path, Query, WebSocket
from pydantic import ConfigDict, Field, Json
from typing_extensions import TypeAliasType

from kernel.data.filters import Filter
from kernel.data.lines import LINE_PATTERN
from kernel.data.models import Dto, Input, Line
from kernel.data.values import Amount, Day, RowId, Timestamp, Whole
from kernel.http.dependencies import Id, Session
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


def through(endpoint: FunctionType) -> Callable[..., Any]:
    """An operation with a dependency, whose parameters are those of another operation."""
    parts = (endpoint.__code__, endpoint.__globals__, endpoint.__name__, endpoint.__defaults__)
    copy = FunctionType(*parts)
    copy.__annotations__ = {**endpoint.__annotations__}

    async def operation(result: Annotated[Any, Depends(copy)]) -> Any:
        return result

    operation.__name__ = f"{endpoint.__name__}_through"
    return operation


for read in (own, lists, model, strict, headers, filtered):
    name = "filter" if read is filtered else read.__name__
    router.get(f"/through/{name}")(through(read))
router.get("/through/path/{row}")(through(of_path))
router.get("/through/told/{row}")(through(of_told_path))
router.post("/through/form")(through(form))
router.post("/through/rows")(through(rows))


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
    for place in ("", "through/"):
        answer = await client.get(f"/peels/{place}{path}", headers=HEADERS)
        assert answer.status_code == 200, (place, answer.text)
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
PLACES += [f"through/{place}" for place in PLACES]


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
    for place in ("", "through/"):
        answer = await client.get(f"/peels/{place}{path}", headers=HEADERS)
        assert answer.status_code == 422, place


async def test_in_a_body_a_number_is_no_text(client):
    for row, status in ((7, 200), ("7", 422), (True, 422)):
        for path, sent in (
            ("body", {"data": {"row": row}}),
            ("body", {"data": {"row": 1}, "more": row}),
            ("rows", [row]),
            ("through/rows", [row]),
        ):
            answer = await client.post(f"/peels/{path}", json=sent)
            assert answer.status_code == status, (path, row)
    for form in ("form", "through/form"):
        assert (await client.post(f"/peels/{form}", data={"row": "7"})).json() == {"row": 7}
        assert (await client.post(f"/peels/{form}", data={"row": "1_0"})).status_code == 422


async def test_a_number_in_a_parameter_of_a_socket_is_read(client):
    async with client.socket("/peels/socket?row=7") as live:
        assert await live.receive() == "8"
    async with client.socket("/peels/socket?row=1_0") as live:
        assert live.status == 422


async def test_the_document_says_of_a_parameter_what_it_says_of_a_field(client):
    document = (await client.get("/openapi.json")).json()
    paths, schemas = document["paths"], document["components"]["schemas"]
    for place in ("own", "model", "filter", "headers"):
        ours, theirs = (paths[f"/peels/{at}{place}"]["get"] for at in ("", "through/"))
        assert ours["parameters"] == theirs["parameters"], place
        parameters = paths[f"/peels/{place}"]["get"]["parameters"]
        schema = {each["name"]: each["schema"] for each in parameters}
        number = schema.get("row") or schema["x-row"]
        bounds = {key: number["anyOf"][0][key] for key in ("type", "minimum", "maximum")}
        assert bounds == {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}, place
    assert schemas["Sent"]["properties"]["row"]["minimum"] == 1
    least = paths["/peels/own"]["get"]["parameters"][2]["schema"]
    assert (least["minimum"], least["maximum"]) == (5, 2**63 - 1)


def plain(row: RowId, line: Line = "-") -> str:
    return f"{row + 1}{line}"


async def generator(row: RowId, line: Line = "-") -> AsyncIterator[str]:
    yield plain(row, line)


def plain_generator(row: RowId, line: Line = "-") -> Iterator[str]:
    yield plain(row, line)


Named = TypeAliasType("Named", RowId)
NamedLine = TypeAliasType("NamedLine", Annotated[Line | None, Query()])


async def named(
    row: Named, line: NamedLine = "-", rows: Annotated[list[Named] | None, Query()] = None
) -> str:
    return plain(row + sum(rows or []), f"{line}")


NamedHeader = TypeAliasType("NamedHeader", Annotated[RowId, Header()])


async def of_header(row: RowId, line: Line = "-", x_row: NamedHeader = 7) -> str:
    return plain(row + x_row - 7, line)


NamedDependency = TypeAliasType("NamedDependency", Annotated[str, Depends(of_header)])


async def of_named(text: NamedDependency) -> str:
    return text


# Each dependency is read once, so a function of its own tells whether a way to it is known.
async def inner(row: RowId, line: Line = "-") -> str:
    return plain(row, line)


async def sub(text: Annotated[str, Depends(inner)]) -> str:
    return text


async def innermost(row: RowId, line: Line = "-") -> str:
    return plain(row, line)


async def by_default(text: str = Depends(innermost)) -> str:
    return text


def offset(row: RowId, line: Line, more: int) -> str:
    return plain(row + more, line)


@wraps(plain)
def decorated(*args: Any, **options: Any) -> str:
    return plain(*args, **options)


class Text:
    def __init__(self, row: RowId, line: Line = "-") -> None:
        self.text = plain(row, line)

    def __str__(self) -> str:
        return self.text


class LaterText(Text):
    pass


class AnnotatedText(Text):
    def __init__(self, row: RowId, line: Line = "-") -> None:
        super().__init__(row, line)


class DefaultText(Text):
    def __init__(self, row: RowId, line: Line = "-") -> None:
        super().__init__(row, line)


class OtherText(Text):
    def __init__(self, row: Annotated[RowId, Query(ge=5)], line: Annotated[Line, Query()]) -> None:
        super().__init__(row, line)


@dataclass(frozen=True)
class Fields:
    row: RowId
    line: Line = "-"

    def __str__(self) -> str:
        return plain(self.row, self.line)

    def method(self, row: RowId, line: Line = "-") -> str:
        return plain(row, line)

    async def __call__(self, row: RowId, line: Line = "-") -> str:
        return plain(row, line)


class NamedFields(NamedTuple):
    row: RowId
    line: Line = "-"

    def __str__(self) -> str:
        return plain(self.row, self.line)


class ModelFields(Dto):
    row: RowId
    line: Line = "-"

    def __str__(self) -> str:
        return plain(self.row, self.line)


DEPENDENCIES = {
    "function": Depends(plain),
    "generator": Depends(generator),
    "plain_generator": Depends(plain_generator, scope="function"),
    "dependency_of_it": Depends(sub),
    "default": Depends(by_default),
    "named": Depends(named),
    "dependency_of_named": Depends(of_named),
    "partial": Depends(partial(offset, more=0)),
    "decorated": Depends(decorated),
    "class": Depends(Text),
    "subclass": Depends(LaterText),
    "other_subclass": Depends(OtherText, use_cache=False),
    "dataclass": Depends(Fields),
    "method": Depends(Fields(1).method),
    "instance": Depends(Fields(1)),
    "named_tuple": Depends(NamedFields),
    "model": Depends(ModelFields),
}
kinds = Router(prefix="/kinds", tags=["peels"])


def add(name: str, depends: Any) -> None:
    async def operation(text: Annotated[Any, depends]) -> str:
        return str(text)

    operation.__name__ = f"get_{name}"
    kinds.get(f"/{name}")(operation)


for name, depends in DEPENDENCIES.items():
    add(name, depends)


@kinds.get("/class-without-a-word")
async def of_annotation(text: Annotated[AnnotatedText, Depends()]) -> str:
    return f"{text}"


@kinds.get("/default-without-a-word")
async def of_default(text: DefaultText = Depends()) -> str:  # noqa: B008  # as FastAPI's manual has it
    return f"{text}"


ALL_KINDS = [*DEPENDENCIES, "class-without-a-word", "default-without-a-word"]


@pytest.mark.parametrize("way", WAYS)
async def test_any_kind_of_dependency_reads_its_parameters(mount, way):
    with WAYS[way]():
        async with mount(kinds) as client:
            for kind in ALL_KINDS:
                answer = await client.get(f"/kinds/{kind}?row=7&line=%20a%20")
                assert (answer.status_code, answer.text) == (200, '"8a"'), kind
                for query in ("row=1_0&line=a", "row=0&line=a", "row=7&line=%20"):
                    answer = await client.get(f"/kinds/{kind}?{query}")
                    (error,) = answer.json()["errors"]
                    assert error["loc"] in (["query", "row"], ["query", "line"]), (kind, query)


async def test_a_type_that_a_statement_names_is_read_as_the_type(mount):
    async with mount(kinds) as client:
        assert (await client.get("/kinds/named?row=7&rows=1&rows=2&line=%20a")).text == '"11a"'
        assert (await client.get("/kinds/named?row=7&rows=1_0")).status_code == 422
        path = "/kinds/dependency_of_named?row=7"
        assert (await client.get(path, headers={"X-Row": "9"})).text == '"10-"'
        assert (await client.get(path, headers={"X-Row": "1_0"})).status_code == 422


async def test_a_class_reads_the_parameters_of_its_own(mount):
    async with mount(kinds) as client:
        assert (await client.get("/kinds/other_subclass?row=4&line=a")).status_code == 422
        assert (await client.get("/kinds/other_subclass?row=7")).status_code == 422
        assert (await client.get("/kinds/class?row=4")).text == '"5-"'


async def of_me() -> str:
    return "me"


seen: list[Any] = []


async def note(row: RowId, line: Line = "-") -> None:
    seen.append((row, line))


def noting() -> Any:
    async def note_another(row: RowId, line: Line = "-") -> None:
        seen.append((row, line))

    return Depends(note_another)


def with_dependencies() -> Router:
    inner = Router(prefix="/inner", tags=["peels"], dependencies=[noting()])
    outer = Router(prefix="/outer", tags=["peels"], dependencies=[noting()])

    @inner.get("/{row}", dependencies=[noting(), Depends(note), Depends(note)])
    async def get_inner() -> str:
        return "inner"

    @inner.websocket("/live", dependencies=[noting()])
    async def live(socket: WebSocket) -> None:
        await socket.accept()

    outer.include_router(inner, dependencies=[noting()])
    return outer


async def test_the_dependencies_of_an_operation_a_router_and_an_inclusion_do_so_too(mount):
    seen.clear()
    outer = with_dependencies()
    async with mount(Router()) as client:
        client.app.include_router(outer, prefix="/mounted", dependencies=[noting()])
        answer = await client.get("/mounted/outer/inner/7?line=%20a%20")
        assert (answer.text, seen) == ('"inner"', [(7, "a")] * 6)
        assert (await client.get("/mounted/outer/inner/1_0")).status_code == 422
        seen.clear()
        async with client.socket("/mounted/outer/inner/live?row=7&line=%20a%20") as socket:
            assert socket.status == 101
        assert seen == [(7, "a")] * 5


async def test_the_dependencies_of_a_router_that_has_sockets_only_do_so_too(mount):
    seen.clear()
    sockets = Router(prefix="/sockets", tags=["peels"], dependencies=[noting()])

    @sockets.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()

    async with mount(sockets) as client, client.socket("/sockets/live?row=7&line=%20a") as socket:
        assert (socket.status, seen) == (101, [(7, "a")])


async def test_a_word_is_no_id_where_a_dependency_takes_it(mount):
    async def find(row: Id) -> int:
        return row

    async def find_its_parent(row: Annotated[int, Depends(find)]) -> int:
        return row + 1

    beside = Router(prefix="/beside", tags=["peels"])
    deep = Router(prefix="/deep", tags=["peels"])
    beside.get("/{row}", name="one", dependencies=[Depends(find)])(of_me)
    deep.get("/{row}", name="one")(through(find_its_parent))
    for rows in (beside, deep):
        rows.get("/me", name="me")(of_me)
    both = Router()
    both.include_router(beside)
    both.include_router(deep)
    async with mount(both) as client:
        for prefix in ("beside", "deep"):
            assert (await client.get(f"/{prefix}/me")).text == '"me"'
            assert (await client.get(f"/{prefix}/0")).status_code == 422


async def test_a_dependency_stays_the_one_that_overrides_and_the_cache_know(mount):
    async def fake() -> str:
        return "fake"

    async with mount(kinds) as client:
        for function in (generator, inner, innermost):
            client.app.dependency_overrides[function] = fake
        for kind in ("generator", "dependency_of_it", "default"):
            assert (await client.get(f"/kinds/{kind}")).text == '"fake"'


async def of_old_style(
    row: RowId = Query(),  # noqa: B008  # as in FastAPI's manual
    line: Line = Query("-", max_length=5),  # noqa: B008  # as in FastAPI's manual
    day: Day | None = Query(None),  # noqa: B008  # as in FastAPI's manual
    fee: Amount = Query(Decimal(1), ge=1),  # noqa: B008  # as in FastAPI's manual
    x_row: RowId = Header(1),  # noqa: B008  # as in FastAPI's manual
) -> list[Any]:
    return [row, line, day, fee, x_row]


async def of_old_model(asked: AskedStrictly = Query()) -> dict[str, Any]:  # noqa: B008  # as in FastAPI's manual
    return asked.model_dump()


@pytest.mark.parametrize("way", WAYS)
async def test_a_source_that_is_a_default_leaves_the_type_its_rules(mount, way):
    old = Router(prefix="/old", tags=["peels"])
    old.get("/own")(of_old_style)
    old.get("/through")(through(of_old_style))
    old.get("/model")(of_old_model)

    @old.post("/form")
    async def of_form(
        _: Session,
        row: RowId = Form(),  # noqa: B008  # as in FastAPI's manual
        line: Line = Form(),  # noqa: B008  # as in FastAPI's manual
    ) -> list[Any]:
        return [row, line]

    @old.post("/body")
    async def of_body(_: Session, row: RowId = Body(embed=True)) -> int:  # noqa: B008  # as in FastAPI's manual
        return row

    with WAYS[way]():
        async with mount(old) as client:
            for path in ("/old/own", "/old/through"):
                answer = await client.get(f"{path}?row=7&line=%20a%20&fee=2")
                assert answer.json()[:2] == [7, "a"]
                for wrong in (
                    "line=%20",
                    "line=abcdef",
                    "fee=0.5",
                    "fee=1.234",
                    "row=0",
                    "row=1_0",
                ):
                    answer = await client.get(f"{path}?row=7&{wrong}")
                    (error,) = answer.json()["errors"]
                    assert error["loc"] == ["query", wrong.partition("=")[0]]
                headers = {"X-Row": "0"}
                assert (await client.get(f"{path}?row=7", headers=headers)).status_code == 422
            assert (await client.get("/old/model?row=8")).json() == {"row": 8}
            answer = await client.post("/old/form", data={"row": "7", "line": " a "})
            assert answer.json() == [7, "a"]
            assert (await client.post("/old/body", json={"row": "7"})).status_code == 422
            assert (await client.post("/old/body", json={"row": 7})).json() == 7
            document = client.app.openapi()["paths"]["/old/own"]["get"]["parameters"]
            shown = {each["name"]: each["schema"] for each in document}
            assert (shown["row"]["minimum"], shown["row"]["maximum"]) == (1, 2**63 - 1)
            assert shown["line"]["pattern"] == LINE_PATTERN
            assert shown["fee"]["anyOf"][0]["minimum"] == 1


NewRow = NewType("NewRow", RowId)


class Several(Dto):
    model_config = ConfigDict(populate_by_name=True)
    rows: Sequence[RowId] = []
    row: NewRow | None = Field(default=None, alias="as")
    parsed: Json[RowId] = 1


async def of_several(
    rows: Annotated[Sequence[RowId], Query()],
    queue: Annotated[deque[RowId], Query()],
    new: NewRow,
    parsed: Annotated[Json[list[RowId]], Query()],
) -> list[Any]:
    return [[*rows], [*queue], new, parsed]


async def of_several_in_a_model(several: Annotated[Several, Query()]) -> list[Any]:
    return [several.rows, several.row, several.parsed]


@pytest.mark.parametrize("way", WAYS)
async def test_a_number_is_read_in_any_collection_and_under_any_name(mount, way):
    both = Router(prefix="/several", tags=["peels"])
    both.get("/own")(of_several)
    both.get("/model")(of_several_in_a_model)
    with WAYS[way]():
        async with mount(both) as client:
            path = "/several/own?rows=1&rows=2&queue=3&new=4&parsed="
            assert (await client.get(f"{path}[5]")).json() == [[1, 2], [3], 4, [5]]
            (error,) = (await client.get(f'{path}["5"]')).json()["errors"]
            assert error["loc"] == ["query", "parsed", 0]
            for name in ("as", "row"):
                answer = await client.get(f"/several/model?rows=1&rows=2&{name}=3&parsed=4")
                assert answer.json() == [[1, 2], 3, 4]


# As with `from __future__ import annotations`, and a class that only type checkers import.
async def of_unknown(row: "RowId", line: "Line" = "-") -> "Unknown":  # type: ignore[name-defined]  # noqa: F821
    return [row, line]


async def through_unknown(pair: "Annotated[Any, Depends(of_unknown)]") -> "Unknown":  # type: ignore[name-defined]  # noqa: F821
    return pair


class Decorated:
    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)

    def __call__(self, *args: Any, **options: Any) -> Any:
        function: Any = self
        return function.__wrapped__(*args, **options)


@cache
def remembered(row: RowId) -> int:
    return row


@Decorated
def by_a_class(row: RowId) -> int:
    return row


async def test_a_dependency_is_read_whatever_its_other_names_and_decorators_are(mount):
    router = Router(prefix="/more", tags=["peels"])
    router.get("/unknown", response_model=None)(of_unknown)
    for name, dependency in (
        ("unknown-below", through_unknown),
        ("remembered", remembered),
        ("by-a-class", by_a_class),
    ):

        async def operation(result: Annotated[Any, Depends(dependency)]) -> Any:
            return result

        router.get(f"/{name}")(operation)
    async with mount(router) as client:
        assert (await client.get("/more/unknown?row=7&line=%20a")).json() == [7, "a"]
        assert (await client.get("/more/unknown-below?row=7&line=%20a")).json() == [7, "a"]
        for name in ("remembered", "by-a-class"):
            assert (await client.get(f"/more/{name}?row=7")).json() == 7


async def test_what_overrides_a_dependency_reads_its_parameters(mount):
    async def another(row: RowId, line: Line = "-") -> str:
        return plain(row, line)

    async with mount(kinds) as client:
        client.app.dependency_overrides[generator] = another
        assert (await client.get("/kinds/generator?row=7&line=%20a")).text == '"8a"'
        client.app.dependency_overrides = {}
        assert (await client.get("/kinds/generator?row=7&line=%20b")).text == '"8b"'


def test_an_operation_is_called_as_its_endpoint_is():
    class Find:
        async def __call__(self, row: RowId) -> Any:
            return row

    router = Router()
    router.get("/find")(Find())
    router.get("/keep", name="keeps")(Find())
    assert [route.name for route in router.routes] == ["Find", "keeps"]


async def test_an_operation_of_fastapis_own_router_or_of_the_app_reads_its_parameters(mount):
    outer = APIRouter(prefix="/outer", dependencies=[noting()])
    inner = APIRouter(prefix="/inner", dependencies=[noting()])
    ours = Router(prefix="/ours", dependencies=[noting()])

    async def of_plain(row: RowId, line: Line = Query("-")) -> str:  # noqa: B008  # as in FastAPI's manual
        return plain(row, line)

    async def live(socket: WebSocket, row: RowId) -> None:
        await socket.accept()
        await socket.send_text(f"{row + 1}")

    inner.get("/plain", dependencies=[noting()])(of_plain)
    inner.websocket("/live")(live)
    ours.get("/plain")(through(of_plain))
    outer.include_router(inner, dependencies=[noting()])
    outer.include_router(ours, dependencies=[noting()])
    async with mount(outer) as client:
        client.app.get("/direct", dependencies=[noting()])(of_plain)
        client.app.websocket("/live")(live)
        for path, count in (("/outer/inner/plain", 4), ("/outer/ours/plain", 3), ("/direct", 1)):
            seen.clear()
            answer = await client.get(f"{path}?row=7&line=%20a")
            assert (answer.text, seen) == ('"8a"', [(7, "a")] * count)
            assert (await client.get(f"{path}?row=1_0")).status_code == 422
        for path in ("/outer/inner/live?row=7", "/live?row=7"):
            async with client.socket(path) as socket:
                assert await socket.receive() == "8"
