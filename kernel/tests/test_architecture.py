"""The house's rules, read off its source and its app: arrows, rooms, budgets, signatures."""

import ast
import sys
from itertools import chain
from pathlib import Path
from statistics import median
from subprocess import run
from textwrap import dedent

import pytest
from fastapi.routing import iter_route_contexts

from kernel.settings import Settings
from kernel.testing.rules import imports
from service import create_app

ROOT = Path(__file__).parents[2]
OURS = {"conftest", "features", "kernel", "migrations", "service", "tests"}
WEB = {"fastapi", "starlette"}
SHIPPED = (
    *("auth", "health", "invitations", "items", "jobs", "keys", "metrics", "password_resets"),
    "users",
)
KERNEL = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "kernel").rglob("*.py")
    if not {"tests", "testing"} & set(path.parts)
)


def is_test(path: Path) -> bool:
    return path.name.startswith("test_")


def sources(root: Path, *folders: str) -> list[Path]:
    return sorted(chain.from_iterable((root / folder).rglob("*.py") for folder in folders))


# Arrows: service.py -> features -> kernel; there, http, identity, jobs, data, fast, ground floor.

LAYERS = ("ground", "fast", "data", "jobs", "mail", "identity", "http")
GROUND = {
    *("context", "database_urls", "driver_errors", "errors", "exposition", "logs", "metric_files"),
    *(
        "identity_settings",
        "metrics",
        "reminders",
        "mail_settings",
        "safeguards",
        "samples",
        "setting_errors",
        "setting_files",
        "setting_types",
        "settings",
        "terminal",
        "tracebacks",
    ),
}
# Beside the layers, and no part of what runs in production.
BESIDE = {"dev", "testing", "tests"}
# It writes slices, and is none.
COMMAND = Path("features/__main__.py")
# The one way from the layers to what a bare machine has instead of a database.
TO_DEVELOPMENT = ("kernel/data/commands.py", "kernel.dev.defaults")
VOCABULARY = {
    alias.name: f"kernel.{node.module}"
    for node in ast.parse((ROOT / "kernel/__init__.pyi").read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def violations(root: Path) -> list[str]:
    """The imports of the service, its features, its kernel and migrations that point elsewhere."""
    found = []
    for path in [root / "service.py", *sources(root, "features", "kernel", "migrations")]:
        place = path.relative_to(root)
        for line, name in imports(path.read_text(), place):
            if not is_allowed(place, name):
                found.append(f"{place}:{line} imports {name}")
    return found


def is_allowed(place: Path, name: str) -> bool:
    top, *rest = name.split(".")
    if top in WEB:
        return not knows_no_http(place)
    if top not in OURS:
        return True
    if place.parts[0] == "kernel":
        return is_below(place, name)
    if top == "kernel" and place.parts[0] != "migrations" and place != COMMAND:
        return is_word(place, rest)
    return any(f"{name}.".startswith(f"{each}.") for each in reach(place))


def is_word(place: Path, name: list[str]) -> bool:
    """Whether a slice, or the service, imports a name of the vocabulary that it may know."""
    if len(name) != 1 or name[0] not in VOCABULARY:
        return False
    return not (knows_no_http(place) and is_about_http(VOCABULARY[name[0]]))


def is_about_http(module: str) -> bool:
    room = Path(ROOT, *module.split(".")).with_suffix(".py")
    found = imports(room.read_text(), room.relative_to(ROOT))
    return any(name.split(".")[0] in WEB for _, name in found)


def knows_no_http(place: Path) -> bool:
    match place.parts:
        case "features", _, "handlers.py" | "handlers" | "models.py" | "settings.py", *_:
            return True
        case "kernel", "data" | "jobs", *_:
            return True
        case "kernel", room:
            return Path(room).stem in GROUND
    return False


def is_below(place: Path, name: str) -> bool:
    """Whether a room of the kernel imports one of its own layer, or of one below."""
    of, to = layer(place.with_suffix("").parts), layer(tuple(name.split(".")))
    if of == "tests":
        return True
    if of == "testing":  # which looks at whatever features there are, and knows none of them
        return to != "tests" and (to != "features" or name == "features")
    if of == "dev":
        return to in (*LAYERS, "dev", "facade")
    if (str(place), name) == TO_DEVELOPMENT or str(place) == "kernel/__init__.py":
        return True
    return to in LAYERS[: LAYERS.index(of) + 1] if of in LAYERS else False


def layer(parts: tuple[str, ...]) -> str:
    """Of a room by its path, or of a module's name by its parts."""
    if parts[0] != "kernel":
        return parts[0]
    match parts[1:]:
        case room, *_ if room in GROUND:
            return "ground"
        case room, _, *_ if room in BESIDE or room in LAYERS:
            return room
    return "facade"


def reach(place: Path) -> list[str]:
    """What of ours, besides the vocabulary, a file may import."""
    match place.parts:
        case ("service.py",):
            return ["features"]
        case "features", "__main__.py":
            return ["kernel.dev.scaffold.__main__"]
        case "features", room, _, *_:
            return [f"features.{room}", "features.shared", "kernel"]
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
        ("features/a/router.py", "from kernel.errors import NotFound", "kernel.errors.NotFound"),
        ("features/a/router.py", "from kernel import errors", "kernel.errors"),
        ("features/a/router.py", "import kernel.errors", "kernel.errors"),
        ("features/a/__main__.py", "from service import app", "service.app"),
        ("features/a/test_a.py", "from features.b.models import B", "features.b.models.B"),
        ("features/a/test_a.py", "from kernel.testing import callers", "kernel.testing.callers"),
        ("features/a/handlers.py", "import fastapi", "fastapi"),
        ("features/a/handlers.py", "from kernel import CurrentUser", "kernel.CurrentUser"),
        ("features/a/handlers.py", "from kernel import Session", "kernel.Session"),
        ("features/a/models.py", "from kernel import Router", "kernel.Router"),
        ("features/a/handlers/make.py", "from fastapi import Request", "fastapi.Request"),
        ("features/a/handlers/make.py", "from ...b import models", "features.b.models"),
        ("features/a/models.py", "from starlette.types import Scope", "starlette.types.Scope"),
        ("features/shared/money.py", "from features.a.models import A", "features.a.models.A"),
        ("features/__init__.py", "from features.a import router", "features.a.router"),
        ("features/__main__.py", "from features.a import models", "features.a.models"),
        ("kernel/data/models.py", "from features.a import models", "features.a.models"),
        ("kernel/data/paging.py", "from ...features.a.models import A", "features.a.models.A"),
        ("kernel/data/paging.py", "import service", "service"),
        ("kernel/data/paging.py", "from kernel import NotFound", "kernel.NotFound"),
        ("kernel/data/paging.py", "from kernel.http.docs import x", "kernel.http.docs.x"),
        ("kernel/data/paging.py", "from kernel.identity.a import x", "kernel.identity.a.x"),
        ("kernel/data/paging.py", "from kernel.dev.defaults import x", "kernel.dev.defaults.x"),
        ("kernel/data/paging.py", "from fastapi import Request", "fastapi.Request"),
        ("kernel/fast/rows.py", "from kernel.data.models import Table", "kernel.data.models.Table"),
        ("kernel/errors.py", "from kernel.fast import rows", "kernel.fast.rows"),
        (
            "kernel/errors.py",
            "from starlette.requests import Request",
            "starlette.requests.Request",
        ),
        ("kernel/http/router.py", "from kernel.testing import x", "kernel.testing.x"),
        ("kernel/testing/plugin.py", "from kernel.tests.app import x", "kernel.tests.app.x"),
        ("kernel/testing/plugin.py", "from features.a.models import A", "features.a.models.A"),
        ("kernel/dev/scaffold/x.py", "from features.a.models import A", "features.a.models.A"),
        ("service.py", "from kernel.dev.scaffold import x", "kernel.dev.scaffold.x"),
        ("service.py", "from kernel.http.router import Router", "kernel.http.router.Router"),
        ("migrations/env.py", "import service", "service"),
        ("migrations/versions/1_a.py", "from features.a.models import A", "features.a.models.A"),
    ],
)
def test_an_arrow_that_points_elsewhere_is_seen(tmp_path, place, source, name):
    write(tmp_path / "kernel/http/good.py", "import fastapi\nfrom kernel.data import models")
    write(tmp_path / "features/a/good.py", "from . import models\nfrom kernel import Router")
    write(tmp_path / "features/shared/good.py", "from kernel import NotFound")
    write(tmp_path / "features/b/handlers.py", "from features.shared import good")
    write(
        tmp_path / "service.py", "from features.a import router as a\nfrom kernel import Settings"
    )
    write(tmp_path / place, source)
    assert violations(tmp_path) == [f"{place}:1 imports {name}"]


def write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)


def test_the_vocabulary_has_70_names_at_most_and_each_is_there():
    import kernel  # noqa: PLC0415

    assert sorted(VOCABULARY) == kernel.__all__
    assert len(VOCABULARY) <= 70
    for name in VOCABULARY:
        assert getattr(kernel, name) is not None


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import kernel.settings", {"fastapi", "starlette", "sqlalchemy", "sqlmodel", "asyncpg"}),
        (
            "from kernel import load_settings",
            {"fastapi", "starlette", "sqlalchemy", "asyncpg", "prometheus_client"},
        ),
        ("import features.users.__main__", {"fastapi", "starlette", "sqlalchemy", "pydantic"}),
        (
            "import kernel.data.commands, kernel.data.filters, features.users.models",
            {"fastapi", "starlette", "prometheus_client"},
        ),
        ("import service", {"uvicorn", "kernel.dev", "prometheus_client"}),
    ],
)
def test_an_import_loads_only_what_it_needs(code, absent):
    """A command that wants the settings alone should not wait for the web framework."""
    tell = f"{code}\nimport sys\nprint(*sys.modules)"
    done = run([sys.executable, "-c", tell], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & absent == set()


# Rooms.


@pytest.mark.house
@pytest.mark.parametrize("name", SHIPPED)
def test_a_slice_has_the_rooms_of_a_slice_and_no_other(name):
    folder = ROOT / "features" / name
    files = [path for path in folder.iterdir() if path.suffix not in {".txt", ".html"}]  # of mails
    rooms = {path.name for path in files} - {"__pycache__"}
    needed = {"__init__.py", "router.py", f"test_{name}.py"}
    assert needed <= rooms <= needed | {"__main__.py", "models.py", "handlers.py", "handlers"}
    assert not {"handlers.py", "handlers"} <= rooms
    assert (folder / "__init__.py").read_text() == ""


# Budgets. A line counts when it is neither blank nor a comment nor a docstring: those explain, and
# are not to be saved on. They are Julienne's own: what a team writes has none.

# Sign-in, rotation and tokens are one subject, and so is an account: its owner's, the admins' and
# the operator's.
LARGER_SLICES = {"auth": 320, "users": 360}


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


@pytest.mark.house
def test_the_table_of_contents_has_60_lines_at_most():
    assert size(ROOT / "service.py") <= 60


@pytest.mark.house
def test_the_tests_of_the_service_itself_have_300_lines_at_most():
    assert sum(len(path.read_text().splitlines()) for path in sources(ROOT, "tests")) <= 300


@pytest.mark.parametrize("room", KERNEL)
def test_a_room_of_the_kernel_has_150_lines_at_most(room):
    assert size(ROOT / room) <= 150


@pytest.mark.house
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_slice_has_200_lines_at_most(name):
    assert size(*sources(ROOT, f"features/{name}")) <= LARGER_SLICES.get(name, 200)


def test_jobs_have_350_lines_at_most():
    assert size(*sources(ROOT, "kernel/jobs")) <= 350


def test_a_function_of_the_kernel_has_30_lines_at_most_and_half_of_them_8():
    lengths = {}
    for path in [ROOT / room for room in KERNEL]:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = dedent("\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno]))
                lengths[f"{path.name}:{node.lineno} {node.name}"] = code_lines(body)
    assert {name: length for name, length in lengths.items() if length > 30} == {}
    assert median(lengths.values()) <= 8


@pytest.mark.house
def test_nothing_but_slices_is_mounted():
    app = create_app(Settings(_env_file=None))
    served = {
        getattr(route.endpoint, "__module__", None)
        for route in iter_route_contexts(app.routes)
        if not (route.path or "").startswith(("/docs", "/openapi.json"))
    }
    assert served == {f"features.{name}.router" for name in SHIPPED}
