"""The house's rules, read off its source and its app: arrows, rooms, budgets, signatures."""

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from statistics import median
from textwrap import dedent

import pytest
from fastapi.routing import iter_route_contexts

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


def test_nothing_but_slices_is_mounted():
    app = create_app(Settings(_env_file=None))
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


def test_the_scaffold_has_670_lines_at_most_and_120_in_a_module():
    modules = sources(ROOT, "kernel/dev/scaffold")
    assert max(map(size, modules)) <= 120
    assert size(*modules) <= 670


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
