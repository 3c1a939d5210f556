"""The blanks around a line go, wherever in a request it stands, and nowhere else."""

import re
import time
import warnings
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import pytest
from fastapi import Body, Form, Header, Path, Query, WebSocket
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from kernel.data.lines import LINE, STORED_LINE
from kernel.data.models import Dto, Email, Input, Line, Text
from kernel.data.trimming import Trims
from kernel.data.values import Amount, Day, Document, RowId, Timestamp, Whole
from kernel.http.dependencies import Session
from kernel.http.router import Router

T = TypeVar("T")
Short = Annotated[Line, Field(max_length=4)]


class Leaf(BaseModel):
    model_config = ConfigDict(frozen=True)
    name: Line = Field(max_length=4, alias="Name")


class Branch(BaseModel):
    name: Short
    leaf: Leaf | None = None
    text: Text = ""
    branches: "list[Branch]" = []


class Tree(Input):
    name: Line
    trees: "list[Tree]" = []  # noqa: RUF012  # pydantic copies it


class Members(TypedDict):
    name: Line


class Chain(TypedDict):
    name: Line
    chain: "Chain | None"


class Pair(NamedTuple):
    name: Line


@dataclass(frozen=True, slots=True)
class Plain:
    name: Line
    plain: "Plain | None" = None


@pydantic_dataclass(frozen=True)
class Checked:
    name: Line


class Names(RootModel[list[Line]]):
    pass


class Boxed(BaseModel, Generic[T]):
    value: T


class Cat(BaseModel):
    kind: Literal["cat"]
    name: Line


class Dog(BaseModel):
    kind: Literal["dog"]
    name: Line


# A type, what is sent, and what the handler gets.
PLACES = {
    "a line": (Line, " a\t", "a"),
    "a line or null": (Line | None, " a ", "a"),
    "null": (Line | None, None, None),
    "a list": (list[Line], [" a ", "b"], ["a", "b"]),
    "no element": (list[Line], [], []),
    "a list of lists": (list[list[Line]], [[" a "], []], [["a"], []]),
    "a set": (set[Line], [" a ", "a"], {"a"}),
    "a frozen set": (frozenset[Line], [" a "], frozenset({"a"})),
    "a tuple": (tuple[int, Line], [1, " a "], (1, "a")),
    "a tuple of any length": (tuple[Line, ...], [" a ", " b "], ("a", "b")),
    "a deque": (deque[Line], [" a "], deque(["a"])),
    "a sequence": (Sequence[Line], [" a "], ["a"]),
    "a dict": (dict[str, Line], {" k ": " v "}, {" k ": "v"}),
    "keys": (dict[Line, Text], {" k ": " v "}, {"k": " v "}),
    "a union": (int | Line, " a ", "a"),
    "the other side of a union": (int | list[Line], [" a "], ["a"]),
    "a number of a union": (int | Line, 7, 7),
    "a list of unions": (list[int | Line | None], [" a ", 7, None], ["a", 7, None]),
    "a model": (Branch, {"name": " a ", "text": " b "}, Branch(name="a", text=" b ")),
    "a model in a model": (
        Branch,
        {"name": "a", "leaf": {"Name": " b "}},
        Branch(name="a", leaf=Leaf(Name="b")),
    ),
    "a model in itself": (
        list[Branch],
        [{"name": " a ", "branches": [{"name": " b ", "branches": [{"name": " c "}]}]}],
        [Branch(name="a", branches=[Branch(name="b", branches=[Branch(name="c")])])],
    ),
    "an input": (
        Tree,
        {"name": " a ", "trees": [{"name": " b "}]},
        Tree(name="a", trees=[Tree(name="b")]),
    ),
    "a typed dict": (Members, {"name": " a "}, {"name": "a"}),
    "a named tuple": (Pair, [" a "], Pair("a")),
    "a dataclass": (Plain, {"name": " a ", "plain": {"name": " b "}}, Plain("a", Plain("b"))),
    "a dataclass of pydantic's": (Checked, {"name": " a "}, Checked("a")),
    "a root model": (Names, [" a "], Names(["a"])),
    "a generic model": (Boxed[Line], {"value": " a "}, Boxed[Line](value="a")),
    "a generic list": (Boxed[list[Line]], {"value": [" a "]}, Boxed[list[Line]](value=["a"])),
    "one of two": (
        Annotated[Cat | Dog, Field(discriminator="kind")],
        {"kind": "dog", "name": " a "},
        Dog(kind="dog", name="a"),
    ),
    "with a rule in front": (Annotated[Line, BeforeValidator(str.lower)], " A ", "a"),
    "with a rule behind": (Annotated[Line, AfterValidator(str.upper)], " a ", "A"),
    "what a rule makes of it": (Annotated[Line, AfterValidator(len)], " a ", 3),
    "text": (list[Text], [" a "], [" a "]),
}


@pytest.mark.parametrize("where", ["field", "field of a body in a body", "body"])
@pytest.mark.parametrize("place", PLACES)
def test_a_line_is_trimmed_wherever_it_stands(place, where):
    kind, sent, expected = PLACES[place]
    if where == "body":
        assert TypeAdapter(Annotated[kind, Trims()]).validate_python(sent) == expected
        return

    class Inner(Input):
        value: kind

    class Outer(Input):
        inner: Inner

    made = Inner(value=sent) if where == "field" else Outer(inner={"value": sent}).inner
    assert made.value == expected
    assert type(made.value) is type(expected)
    if place != "what a rule makes of it":
        made.model_dump_json()  # without a warning


@pytest.mark.parametrize("place", PLACES)
def test_the_schema_of_what_is_trimmed_is_that_of_the_type(place):
    kind = PLACES[place][0]
    told = [
        str(TypeAdapter(each).json_schema())
        .replace(repr(LINE.pattern)[1:-1], "a line")
        .replace(repr(STORED_LINE)[1:-1], "a line")
        for each in (Annotated[kind, Trims()], kind)
    ]
    assert told[0] == told[1]


BAD = {
    "too long as it was sent": " a   ",
    "blank": "  ",
    "empty": "",
    "NUL": " a\x00",
    "two lines": "a\nb",
    "two lines of Unicode's": "a\u2028b",
    "a number": 7,
    "null": None,
    "a list": ["a"],
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        (Short, lambda value: value),
        (list[Short], lambda value: ["a", value]),
        (dict[str, Short], lambda value: {"k": value}),
        (Branch, lambda value: {"name": value}),
        (Branch, lambda value: {"name": "a", "leaf": {"Name": value}}),
        (list[dict[str, tuple[Short, int]]], lambda value: [{"k": [value, 1]}]),
    ],
    ids=["line", "list", "dict", "model", "model in a model", "deep"],
)
def test_what_is_no_line_is_refused_where_it_stands(kind, wrap, bad):
    class Body(Input):
        value: kind

    adapter = TypeAdapter(Body)
    adapter.validate_python({"value": wrap(" ab ")})
    with pytest.raises(ValidationError) as refused:
        adapter.validate_python({"value": wrap(BAD[bad])})
    assert refused.value.errors()[0]["loc"][0] == "value"


def test_what_could_not_be_trimmed_in_itself_is_refused_at_once():
    with pytest.raises(TypeError, match="Chain contains itself"):

        class Body(Input):
            chain: Chain

    async def take(chain: Chain) -> None: ...

    with pytest.raises(TypeError, match="Chain contains itself"):
        Router().post("/chains")(take)


# The words of pydantic's own schemas.
WORDS = ["type", "metadata", "default", "serialization", "schema", "ref", "schema_ref", "function"]
WORDS += ["fields", "choices", "cls", "config", "items_schema", "root_model", "definitions"]


@pytest.mark.parametrize("word", WORDS)
def test_a_field_is_called_as_a_team_likes(word):
    record = TypedDict("record", {word: Line})
    inner = create_model("Inner", __base__=Input, inner=(Line, ...))
    name = {"alias": word}
    aliased = create_model("Aliased", __base__=Input, own=(Line, Field(**name)), inner=(inner, ...))
    assert aliased.model_validate({word: " a ", "inner": {"inner": " b "}}).own == "a"
    kinds = Annotated[
        Annotated[record, Tag(word)] | Annotated[inner, Tag("x")],
        Discriminator(lambda sent: word if word in sent else "x"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are names of the base, too
        model = create_model("Body", __base__=Input, **{word: (Line, ...), "inner": (kinds, ...)})
    body = model.model_validate({word: " a ", "inner": {word: " b "}})
    assert (getattr(body, word), body.inner) == ("a", {word: "b"})


def test_a_default_is_as_it_is_written():
    class Body(Input):
        line: Line = " as it is "
        lines: list[Line] = [" as it is "]  # noqa: RUF012  # pydantic copies it

    assert vars(Body()) == {"line": " as it is ", "lines": [" as it is "]}


def test_a_rule_of_the_body_sees_what_was_sent():
    seen = []

    class Body(Input):
        line: Line

        @field_validator("line")
        @classmethod
        def _look(cls, line):
            seen.append(line)
            return line

    assert Body(line=" a ").line == "a"
    assert seen == [" a "]


class Answer(Dto):
    title: Line
    branch: Branch
    lines: list[Line]


def test_an_answer_shows_what_is_stored():
    given = {"title": " a ", "branch": {"name": " b "}, "lines": [" c "]}
    answer = Answer.model_validate(given)
    assert (answer.title, answer.branch.name, answer.lines) == (" a ", " b ", [" c "])


async def test_a_body_need_not_be_an_object(mount):
    async def lines(_: Session, data: list[Short]) -> list[str]:
        return data

    async def members(_: Session, data: dict[str, Short]) -> dict[str, str]:
        return data

    def embedded(_: Session, line: Annotated[Short, Body(embed=True)]) -> str:
        return line

    def two(_: Session, one: Annotated[Short, Body()], other: Branch) -> list[str]:
        return [one, other.name]

    async def given(_: Session, data: Annotated[list[Branch], Body(max_length=2)]) -> list[Branch]:
        return data

    router = Router(prefix="/peeled_lines")
    for endpoint in (lines, members, embedded, two, given):
        router.post(f"/{endpoint.__name__}")(endpoint)
    async with mount(router) as client:
        for path, sent, expected, bad in [
            ("lines", [" a ", "b"], ["a", "b"], [" a   "]),
            ("members", {"k": " a "}, {"k": "a"}, {"k": "     "}),
            ("embedded", {"line": " a "}, "a", {"line": [" a "]}),
            ("two", {"one": " a ", "other": {"name": "b"}}, ["a", "b"], {"one": "  ", "other": {}}),
            (
                "given",
                [{"name": "a"}],
                [{"name": "a", "leaf": None, "text": "", "branches": []}],
                [{"name": " a   "}],
            ),
        ]:
            answer = await client.post(f"/peeled_lines/{path}", json=sent)
            assert (answer.status_code, answer.json()) == (200, expected), path
            assert (await client.post(f"/peeled_lines/{path}", json=bad)).status_code == 422, path


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Short


@dataclass
class Plainly:
    name: Short


@pytest.mark.parametrize("kind", [Strict, Plainly, Members, Branch])
async def test_what_is_in_a_body_is_trimmed_whoever_its_base_is(mount, kind):
    async def one(_: Session, data: kind) -> Any:
        return data

    async def many(_: Session, data: list[kind] | None) -> Any:
        return data

    async def sent_as_form(_: Session, data: Annotated[Strict, Form()]) -> Any:
        return data

    async def asked(data: Annotated[Strict, Query()]) -> Any:
        return data

    router = Router(prefix="/peeled_lines")
    for endpoint in (one, many, sent_as_form):
        router.post(f"/{endpoint.__name__}")(endpoint)
    router.get("/asked")(asked)
    async with mount(router) as client:
        for line, status in ((" a ", 200), ("a\nb", 422), (" ", 422)):
            row = {"name": line}
            for answer in (
                await client.post("/peeled_lines/one", json=row),
                await client.post("/peeled_lines/many", json=[row]),
                await client.post("/peeled_lines/sent_as_form", data=row),
                await client.get("/peeled_lines/asked", params=row),
            ):
                assert answer.status_code == status
                shown = answer.json()[0] if isinstance(answer.json(), list) else answer.json()
                assert status != 200 or shown["name"] == "a"


async def test_a_sockets_parameter_may_be_a_line(mount):
    router = Router(prefix="/peeled_lines")

    @router.websocket("/live")
    async def tell(socket: WebSocket, line: Short) -> None:
        await socket.accept()
        await socket.send_text(line)

    async with mount(router) as client:
        async with client.socket("/peeled_lines/live?line=%20a%20") as socket:
            assert await socket.receive() == "a"
        async with client.socket("/peeled_lines/live?line=a%0Ab") as socket:
            assert socket.status == 422


def test_a_generic_model_is_refused_where_its_parameter_would_not_count():
    class Envelope(Dto, Generic[T]):
        data: T

    with pytest.raises(TypeError, match="Envelope cannot be generic"):
        Envelope[int]


async def test_a_parameter_may_be_a_line(mount):
    async def everywhere(
        name: Annotated[Line, Path(max_length=4)],
        short: Annotated[Line, Query(max_length=4)],
        x_line: Annotated[Line, Header(max_length=4)],
        field: Annotated[Line, Form(max_length=4)],
        many: Annotated[list[Short], Query()],
        _: Session,
        maybe: Line | None = None,
    ) -> list[str | None]:
        return [name, short, x_line, field, *many, maybe]

    def threaded(line: Line) -> str:
        return line

    router = Router(prefix="/peeled_lines")
    router.post("/everywhere/{name}")(everywhere)
    router.get("/threaded")(threaded)
    async with mount(router) as client:
        good = {"short": " b ", "many": [" e ", "f"], "maybe": " g "}
        sent = {"headers": {"X-Line": "c"}, "data": {"field": " d "}}
        answer = await client.post("/peeled_lines/everywhere/%20a%20", params=good, **sent)
        assert answer.json() == ["a", "b", "c", "d", "e", "f", "g"]
        for bad in ({"short": " b   "}, {"many": ["e", " f   "]}, {"maybe": " "}):
            answer = await client.post("/peeled_lines/everywhere/a", params=good | bad, **sent)
            assert answer.status_code == 422, bad
        assert (await client.get("/peeled_lines/threaded?line=%20a")).json() == "a"


def test_what_a_pattern_says_of_a_line_is_so():
    class Body(Input):
        line: Line

    pattern = re.compile(Body.model_json_schema()["properties"]["line"]["pattern"])
    breaks = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
    blanks = f" \t\x1f\xa0\u3000\ufeff{breaks}"
    lines = ["a", "a b", "a\tb", "a\u3000b", "a\ufeffb", *(f"{each}a{each}" for each in blanks)]
    others = ["", "a\x00", "\x00a", *blanks, *(f"a{each}b" for each in breaks)]
    for line, is_line in [*((each, True) for each in lines), *((each, False) for each in others)]:
        assert bool(pattern.search(line)) == is_line, ascii(line)
        try:
            Body(line=line)
        except ValidationError:
            assert not is_line, ascii(line)
        else:
            assert is_line, ascii(line)


def test_a_line_is_judged_in_no_time():
    class Body(Input):
        line: Line

    for part in ("a", " ", "a ", " a", "\u2028", "a\x1f"):
        started = time.process_time()
        for end in ("", "\nb", "\x00"):
            with suppress(ValidationError):
                Body(line=part * 100_000 + end)
        assert time.process_time() - started < 0.5


def test_what_was_stored_before_may_be_shown():
    assert Answer.model_validate({"title": "a\nb", "branch": {"name": "b"}, "lines": []}).title
    shown = TypeAdapter(Line).json_schema(mode="serialization")
    assert re.search(shown["pattern"], "a\nb")


async def test_the_names_in_a_body_are_known_whatever_it_is_made_of():
    """What the database refuses is the client's where the client has sent it."""

    async def take(data: dict[str, list[Plain | Members]], more: list[Branch | Pair]) -> None: ...

    router = Router()
    router.post("/take")(take)
    assert router.routes[-1].input_names >= {"data", "more", "name", "plain", "leaf", "branches"}

    async def members(data: Members) -> None: ...

    router.patch("/take")(members)
    assert router.routes[-1].input_names == {"data", "name"}


KINDS = {
    "text": (Text, "a\x00"),
    "e-mail": (Email, "a@b@c"),
    "amount": (Amount, "1e3"),
    "day": (Day, 0),
    "moment": (Timestamp, "2030-01-01"),
    "number": (Whole, 2**31),
    "id": (RowId, 0),
    "document": (Document, {"a": "\x00"}),
    "line": (Line, " "),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_value_in_a_container_is_refused(kind):
    annotation, bad = KINDS[kind]

    class Body(Input):
        elements: list[annotation] = Field(default=[])
        members: dict[str, annotation] = Field(default={})
        nested: list[dict[str, annotation | None]] = Field(default=[])

    for body in ({"elements": [bad]}, {"members": {"a": bad}}, {"nested": [{"a": bad}]}):
        with pytest.raises(ValueError, match=r"should|Input|must"):
            Body.model_validate(body)
