"""The house's rules, read off its source and its app: arrows, rooms, budgets, signatures."""

import ast
import copy
from collections.abc import Iterable, Iterator
from importlib import import_module
from inspect import isclass
from itertools import chain
from pathlib import Path
from statistics import median
from textwrap import dedent
from typing import Annotated, Any, get_args, get_origin

import pytest
from fastapi import APIRouter, Depends, FastAPI, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from sqlalchemy import Column
from sqlalchemy.dialects import postgresql
from sqlmodel import Field, SQLModel

from features.users.models import User
from kernel.data.models import Input
from kernel.data.paging import Page
from kernel.data.session import Session, get_session
from kernel.data.values import Document, storable_document
from kernel.settings import Settings
from service import create_app

ROOT = Path(__file__).parents[2]
OURS = {"conftest", "features", "kernel", "migrations", "service", "tests"}
WEB = {"fastapi", "starlette"}
SLICES = sorted(
    folder.name
    for folder in (ROOT / "features").iterdir()
    # The scaffold is the developers' tool: no part of the service.
    if (folder / "__init__.py").exists() and folder.name not in {"kernel", "scaffold"}
)
KERNEL = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "kernel").rglob("*.py")
    if not {"tests", "testing", "dev"} & set(path.parts)
)
PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
SQL_CALLS = {"text", "exec", "execute", "executemany", "fetch", "fetchmany", "fetchrow", "fetchval"}
SQL_WORDS = ("select ", "insert ", "update ", "delete ", "with ", "alter ", "drop ", "truncate ")


def is_test(path: Path) -> bool:
    return path.name.startswith("test_")


def sources(root: Path, *folders: str) -> list[Path]:
    return sorted(chain.from_iterable((root / folder).rglob("*.py") for folder in folders))


# Arrows: service -> slices -> kernel; and features/__main__.py -> scaffold -> kernel.


def violations(root: Path) -> list[str]:
    """The imports of the service, its features and migrations that point up or sideways."""
    found = []
    for path in [root / "service.py", *sources(root, "features", "migrations")]:
        place = path.relative_to(root)
        for line, name in imports(ast.parse(path.read_text()), place):
            if not is_allowed(place, name):
                found.append(f"{place}:{line} imports {name}")
    return found


def imports(tree: ast.AST, place: Path) -> Iterator[tuple[int, str]]:
    """Each imported name in full, whatever the form and wherever in the file."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                # One dot is the file's own package, each further one its parent.
                package = place.parts[: len(place.parts) - level] if level else ()
                base = ".".join([*package, *([module] if module else [])])
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(function).split(".")[-1] in {"import_module", "__import__"}:
                    yield node.lineno, name


def is_allowed(place: Path, name: str) -> bool:
    top, *_ = name.split(".")
    if top in WEB:
        return not knows_no_http(place)
    if place.parts == ("service.py",):
        return not f"{name}.".startswith("kernel.dev.scaffold.")
    return top not in OURS or any(f"{name}.".startswith(f"{each}.") for each in reach(place))


def knows_no_http(place: Path) -> bool:
    match place.parts:
        case "features", room, "handlers.py" | "handlers" | "models.py", *_:
            return room != "kernel"
    return False


def reach(place: Path) -> list[str]:
    """What of ours a file may import."""
    match place.parts:
        case "features", "__main__.py":
            return ["kernel.dev"]
        case "features", room, _, *_:
            return ["kernel", f"features.{room}"]
        case "migrations", "env.py":
            return ["kernel"]
    return []  # a revision among them: history must not depend on today's models


def test_arrows_point_down_only():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("place", "source", "name"),
    [
        ("features/a/router.py", "from features.b.models import B", "features.b.models.B"),
        ("features/a/router.py", "from features.b import handlers", "features.b.handlers"),
        ("features/a/router.py", "from features import b", "features.b"),
        ("features/a/router.py", "import features.b.models as x", "features.b.models"),
        ("features/a/router.py", "import features", "features"),
        ("features/a/router.py", "from ..b import models", "features.b.models"),
        ("features/a/router.py", "from .. import b", "features.b"),
        ("features/a/router.py", "def f(): import features.b", "features.b"),
        ("features/a/router.py", "if 0: import_module('features.b')", "features.b"),
        ("features/a/router.py", "import service", "service"),
        ("features/a/router.py", "from service import app", "service.app"),
        ("features/a/__main__.py", "from service import app", "service.app"),
        ("features/a/test_a.py", "from features.b.models import B", "features.b.models.B"),
        (
            "features/a/test_a.py",
            "from kernel.testing.fixtures import PASSWORD",
            "kernel.testing.fixtures.PASSWORD",
        ),
        ("features/a/handlers.py", "import fastapi", "fastapi"),
        ("features/a/handlers/make.py", "from fastapi import Request", "fastapi.Request"),
        ("features/a/handlers/make.py", "from ...b import models", "features.b.models"),
        ("features/a/models.py", "from starlette.types import Scope", "starlette.types.Scope"),
        ("kernel/data/models.py", "from features.a import models", "features.a.models"),
        ("kernel/data/paging.py", "from ..a.models import A", "features.a.models.A"),
        ("kernel/data/paging.py", "import service", "service"),
        ("features/__init__.py", "from features.a import router", "features.a.router"),
        ("features/a/router.py", "from features import scaffold", "kernel.dev.scaffold"),
        ("kernel/data/paging.py", "from kernel.dev.scaffold import x", "kernel.dev.scaffold.x"),
        ("kernel/dev/scaffold/x.py", "from features.a.models import A", "features.a.models.A"),
        ("features/__main__.py", "from features.a import models", "features.a.models"),
        ("service.py", "from kernel.dev.scaffold import x", "kernel.dev.scaffold.x"),
        ("migrations/env.py", "from kernel.dev.scaffold import x", "kernel.dev.scaffold.x"),
        ("migrations/env.py", "import service", "service"),
        ("migrations/versions/1_a.py", "from features.a.models import A", "features.a.models.A"),
    ],
)
def test_an_arrow_that_points_elsewhere_is_seen(tmp_path, place, source, name):
    write(tmp_path / "features/kernel/good.py", "import fastapi\nimport kernel.errors")
    write(tmp_path / "features/a/good.py", "from . import models\nfrom ..kernel import errors")
    write(tmp_path / "service.py", "from features.a import router as a")
    write(tmp_path / place, source)
    assert violations(tmp_path) == [f"{place}:1 imports {name}"]


def write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)


# Rooms.


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_has_the_rooms_of_a_slice_and_no_other(name):
    folder = ROOT / "features" / name
    rooms = {path.name for path in folder.iterdir()} - {"__pycache__"}
    needed = {"__init__.py", "router.py", f"test_{name}.py"}
    assert needed <= rooms <= needed | {"__main__.py", "models.py", "handlers.py", "handlers"}
    assert not {"handlers.py", "handlers"} <= rooms
    assert (folder / "__init__.py").read_text() == ""


def test_a_slice_is_what_the_service_mounts():
    tree = ast.parse((ROOT / "service.py").read_text())
    mounted = [
        ast.unparse(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".include_router")
    ]
    assert sorted(mounted) == [f"{name}.router" for name in SLICES]


def test_nothing_but_slices_is_mounted(app):
    served = {
        getattr(route.endpoint, "__module__", None)
        for route in iter_route_contexts(app.routes)
        if not (route.path or "").startswith(("/docs", "/openapi.json"))
    }
    assert served == {f"features.{name}.router" for name in SLICES}


# Budgets. A line counts when it is neither blank nor a comment nor a docstring: those explain, and
# are not to be saved on.

# Sign-in, rotation, throttling and tokens are one subject, and the largest; users have a command.
LARGER_SLICES = {"auth": 320, "users": 210}


def code_lines(text: str) -> int:
    docstrings = [
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    explained = {n for node in docstrings for n in range(node.lineno, node.end_lineno + 1)}
    lines = enumerate(text.splitlines(), 1)
    return sum(
        1 for n, line in lines if line.strip(" #") and line.strip()[0] != "#" and n not in explained
    )


def size(*paths: Path) -> int:
    return sum(code_lines(path.read_text()) for path in paths if not is_test(path))


def test_the_table_of_contents_has_70_lines_at_most_besides_two_a_slice():
    assert size(ROOT / "service.py") <= 70 + 2 * len(SLICES)


@pytest.mark.parametrize("room", KERNEL)
def test_a_room_of_the_kernel_has_150_lines_at_most(room):
    assert size(ROOT / room) <= 150


def test_the_scaffold_has_700_lines_at_most_and_150_in_a_module():
    modules = sources(ROOT, "kernel/dev/scaffold")
    assert max(map(size, modules)) <= 150
    assert size(*modules) <= 700


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_has_200_lines_at_most(name):
    assert size(*sources(ROOT, f"features/{name}")) <= LARGER_SLICES.get(name, 200)


def test_a_function_has_30_lines_at_most_and_half_of_them_8():
    lengths = {}
    for path in [ROOT / "service.py", *sources(ROOT, "features")]:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_test(path):
                body = dedent("\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno]))
                mounts = body.count("app.include_router(")  # one a slice, however many there are
                lengths[f"{path.name}:{node.lineno} {node.name}"] = code_lines(body) - mounts
    assert {name: length for name, length in lengths.items() if length > 30} == {}
    assert median(lengths.values()) <= 8


# SQL is never put together from strings.


def assembled_sql(source: str) -> list[int]:
    """The lines where a string made of parts is SQL, or is handed to something that runs it."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    suspects = [c.args[0] for c in calls if ast.unparse(c.func).split(".")[-1] in SQL_CALLS]
    suspects += [node for node in ast.walk(tree) if starts_like_sql(node)]
    return sorted({node.lineno for node in suspects if is_assembled(node)})


def is_assembled(node: ast.AST) -> bool:
    match node:
        case ast.JoinedStr(values=values):
            return any(isinstance(value, ast.FormattedValue) for value in values)
        case ast.BinOp(op=ast.Add() | ast.Mod()):
            return True
        case ast.Call(func=ast.Attribute(attr="format" | "join" | "replace")):
            return True
    return False


def starts_like_sql(node: ast.AST) -> bool:
    constants = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
    first = next((value for value in constants if isinstance(value, str)), "")
    return isinstance(node, ast.expr) and first.lstrip().lower().startswith(SQL_WORDS)


def test_no_sql_is_assembled_from_strings():
    found = {str(path): assembled_sql(path.read_text()) for path in sources(ROOT, "features")}
    assert {path: lines for path, lines in found.items() if lines} == {}


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


# Signatures.


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """The app as it is built, before its lifespan: it has opened nothing."""
    url = "postgresql://nobody@localhost/nowhere"
    return create_app(Settings(_env_file=None, database_url=url, jwt_secret="test" * 8))


def mistakes(app: FastAPI) -> list[str]:
    """What is wrong with the routes' parameters, bodies, answers and dependencies."""
    return [
        f"{route.path} {mistake}"
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
        for mistake in chain(tables(route), bodies(route), sessions(route))
    ]


def tables(route: RouteContext) -> Iterator[str]:
    parts = list(flatten(route.dependant))
    taken = [field for part in parts for field in (*inputs(part), *part.body_params)]
    given = [route.response_model, *(each.field_info for each in route.response_fields.values())]
    annotations = [field.field_info.annotation for field in taken]
    annotations += [getattr(each, "annotation", each) for each in given]
    for model in classes(annotations):
        if is_table(model):
            yield f"has the table {model.__name__} in its signature"


def bodies(route: RouteContext) -> Iterator[str]:
    fields = [field for part in flatten(route.dependant) for field in part.body_params]
    for body in (field.field_info for field in fields):
        if isinstance(body, params.Form):
            continue
        models = {each for each in classes([body.annotation]) if issubclass(each, BaseModel)}
        if not models:
            yield "takes a body that is no model"
        for model in models:
            if model.model_config.get("extra") != "forbid":
                yield f"lets unknown fields of {model.__name__} pass"
            for name, field in model.model_fields.items():
                if is_document(field):
                    if storable_document not in validators(field):
                        yield f"lets any JSON into {model.__name__}.{name}"
                elif is_text(field) and longest(field) is None:
                    yield f"sets no bound to {model.__name__}.{name}"


def sessions(route: RouteContext) -> Iterator[str]:
    calls = {part.call for part in flatten(route.dependant)}
    reads = {"GET", "HEAD"} & (route.methods or set())
    if reads and get_session in calls:
        yield "reads, and has a session to write with"


def flatten(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for part in dependant.dependencies:
        yield from flatten(part)


def inputs(part: Dependant) -> list[Any]:
    return [*part.path_params, *part.query_params, *part.header_params, *part.cookie_params]


def classes(annotations: Iterable[Any]) -> set[type]:
    """Every class in the annotations, in their arguments, and in the models' fields."""
    found: set[type] = set()
    waiting = list(annotations)
    while waiting:
        one = waiting.pop()
        waiting += [*get_args(getattr(one, "__value__", one)), *filter(None, [get_origin(one)])]
        if isclass(one) and one not in found:
            found.add(one)
            if issubclass(one, BaseModel):
                waiting += [field.annotation for field in one.model_fields.values()]
                waiting += one.__pydantic_generic_metadata__["args"]
    return found


def is_text(field: FieldInfo) -> bool:
    """Whether the field takes free text, unlike a Literal or an Enum."""
    return not {str, SecretStr}.isdisjoint(classes([field.annotation]))


def is_document(field: FieldInfo) -> bool:
    """Whether the field takes JSON of any form, whose size and depth no length bounds."""
    return bool({Any, object, dict} & classes([field.annotation]))


def rules(field: FieldInfo) -> list[Any]:
    """What the field's annotation says besides the type, wherever in it."""
    found, waiting = list(field.metadata), [field.annotation]
    while waiting:
        found += getattr(one := waiting.pop(), "__metadata__", ())
        waiting += get_args(one)
    return found


def longest(field: FieldInfo) -> int | None:
    """The field's `max_length`."""
    lengths = [length for rule in rules(field) if (length := getattr(rule, "max_length", None))]
    return min(lengths, default=None)


def validators(field: FieldInfo) -> list[Any]:
    return [getattr(rule, "func", None) for rule in rules(field)]


def test_signatures_are_made_of_strict_bounded_models(app):
    assert mistakes(app) == []


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


# The OpenAPI document.


def gaps(document: dict[str, Any]) -> list[str]:
    """What the document leaves out about its operations."""
    found, seen = [], set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            name = operation.get("operationId")
            wrong = {
                "has no operationId of its own": not name or name in seen,
                "has no summary": not operation.get("summary"),
                "has not one tag": len(operation.get("tags", [])) != 1,
                "does not describe its success": not describes_success(operation["responses"]),
                "does not declare 500": "500" not in operation["responses"],
                "has an error that is no Problem": not describes_errors(operation["responses"]),
            }
            seen.add(name)
            found += [f"{method} {path} {gap}" for gap, is_there in wrong.items() if is_there]
    return found


def describes_success(responses: dict[str, Any]) -> bool:
    successes = {status: answer for status, answer in responses.items() if status[0] == "2"}
    return bool(successes) and all(
        status == "204" or all(each.get("schema") for each in contents(answer))
        for status, answer in successes.items()
    )


def contents(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return list(answer.get("content", {"none": {}}).values())


def describes_errors(responses: dict[str, Any]) -> bool:
    errors = [answer for status, answer in responses.items() if status[0] not in "123"]
    return all(each.get("content") == {"application/problem+json": PROBLEM} for each in errors)


def test_every_operation_is_described(app):
    document = app.openapi()
    assert gaps(document) == []
    assert {"error", "message", "status", "title", "detail", "request_id"} <= set(
        document["components"]["schemas"]["Problem"]["properties"]
    )


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
        ({"responses": {"500": None}}, "does not declare 500"),
        ({"responses": {"401": {"content": None}}}, "has an error that is no Problem"),
        (
            {"responses": {"422": {"content": {"text/plain": {}}}}},
            "has an error that is no Problem",
        ),
    ],
)
def test_a_gap_in_the_description_is_seen(app, damage, gap):
    document = copy.deepcopy(app.openapi())
    merge(document["paths"]["/users/me"]["get"], damage)
    known = gaps(app.openapi())
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


# Lengths: what a DTO lets in, the column can hold.


def unlike(models: Iterable[type]) -> list[str]:
    """The text fields of bodies that are longer or shorter than the slice's column."""
    found = []
    rows = [model for model in models if is_table(model)]
    for body in (model for model in models if issubclass(model, Input)):
        # ItemCreate is about Item; a name like MeUpdate is about whichever table has the column.
        own = [row for row in rows if body.__name__.startswith(row.__name__)] or rows
        for name, field in body.model_fields.items():
            columns = [row.__table__.c[name] for row in own if name in row.__table__.c]
            right = "JSONB" if is_document(field) else f"VARCHAR({longest(field)})"
            if (is_text(field) or is_document(field)) and any(kind(c) != right for c in columns):
                found.append(f"{body.__name__}.{name}")
    return found


def kind(column: Column[Any]) -> str:
    return column.type.compile(dialect=postgresql.dialect())


def is_table(model: type) -> bool:
    return issubclass(model, SQLModel) and hasattr(model, "__table__")


def models_of(name: str) -> list[type]:
    folder = ROOT / "features" / name
    module = import_module(f"features.{name}.models") if (folder / "models.py").exists() else None
    return [each for each in vars(module).values() if isclass(each)] if module else []


@pytest.mark.parametrize("name", SLICES)
def test_a_text_is_as_long_in_a_body_as_in_its_column(name):
    assert unlike(models_of(name)) == []


class UserShort(Input):
    full_name: str = Field(max_length=99)


class MeEndless(Input):
    full_name: str | None = None


def test_another_length_is_seen():
    assert unlike([User, UserShort, MeEndless]) == ["UserShort.full_name", "MeEndless.full_name"]


@pytest.mark.parametrize("name", SLICES)
def test_every_text_column_has_a_length(name):
    columns = [c for model in models_of(name) if is_table(model) for c in model.__table__.c]
    assert [str(c) for c in columns if kind(c) in {"VARCHAR", "CHAR", "TEXT"}] == []
