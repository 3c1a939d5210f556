"""The commands `new`, `remove` and `merge`, on a draft of the tree (see `tree.draft_of`)."""

import ast
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mako.template import Template  # type: ignore[import-untyped]

from kernel.dev.scaffold.conflicts import check_resolved, join_mounts
from kernel.dev.scaffold.fields import Field, parse
from kernel.dev.scaffold.mount import mount, names, unmount
from kernel.dev.scaffold.names import check_length, check_name, check_slice, class_name, singular
from kernel.dev.scaffold.references import references
from kernel.dev.scaffold.survey import Refusal, Survey, survey

TEMPLATES = Path(__file__).parent / "templates"
ROOMS = {
    "models": "models.py",
    "handlers": "handlers.py",
    "router": "router.py",
    "test": "test_{}.py",
}
# Names of parameters in a slice's functions.
PARAMETERS = {"me", "data", "reader", "pager", "paging", "session", "filters"}


def new(draft: Path, name: str, words: Sequence[str], one: str | None) -> None:
    """Write a slice, mount it, and write its migration.

    `words` are fields as on the command line ("title:str"), `one` is the singular of `name`.

    Raises:
        Refusal: a name is invalid or taken, a field is none, or ruff or Alembic failed.
    """
    existing, service = survey(draft), draft / "service.py"
    check_slice(name, existing, {word for word, _ in names(service.read_text())})
    one = check_name(one or singular(name))
    fields, is_owned = parse(words, existing, one)
    check_length(*_names(name, fields, is_owned))
    rooms = _render(name, one, fields, is_owned)
    _check_clashes(name, one, rooms.values(), existing)
    folder = draft / "features" / name
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").touch()
    for room, text in rooms.items():
        (folder / room).write_text(text)
    service.write_text(mount(service.read_text(), name))
    _ruff(draft, "check", "--fix-only", folder)
    _ruff(draft, "check", "--fix-only", "--select=I", service)
    _ruff(draft, "format", folder)
    _ruff(draft, "check", folder)
    _migrate(draft, "add", name, [name])


def remove(draft: Path, name: str) -> None:
    """Remove a slice and its mounting, and write the migration that drops its tables.

    Raises:
        Refusal: there is no such slice, or something still needs it.
    """
    folder, service = draft / "features" / name, draft / "service.py"
    existing = survey(draft)
    if not existing.paths.get(name):
        raise Refusal(f"there is no slice {name!r}")
    tables = [table.name for table in existing.tables.values() if table.folder == name]
    if places := references(draft, name, tables, existing.paths[name]):
        raise Refusal(f"{name} is still needed by {', '.join(places)}")
    service.write_text(unmount(service.read_text(), name))
    if tables:
        _migrate(draft, "drop", name, tables)
    shutil.rmtree(folder)


def merge(draft: Path) -> None:
    """After a git merge: mount the features of both sides, and join the heads of the migrations.

    Raises:
        Refusal: another conflict of git's is not resolved.
    """
    service = draft / "service.py"
    text = service.read_text()
    joined = join_mounts(text, {path.parent.name for path in draft.glob("features/*/router.py")})
    service.write_text(joined)
    check_resolved(draft)
    if joined != text:
        _ruff(draft, "check", "--fix-only", "--select=I", service)
    _migrate(draft, "merge", "merge", [])


def _names(table: str, fields: Iterable[Field], is_owned: bool) -> Iterable[str]:
    """The longest names of constraints and indexes that the table will have."""
    yield f"ix_{table}_owner_id_id" if is_owned else f"pk_{table}"
    for field in fields:
        yield from (f"uq_{table}_{field.name}", f"ix_{table}_{field.name}_id")
        if field.target:
            yield f"fk_{table}_{field.name}_{field.target.name}"


def _render(name: str, one: str, fields: Iterable[Field], is_owned: bool) -> dict[str, str]:
    """The text of each file by its name, before ruff has sorted and formatted it."""
    columns = {field.name for field in fields}
    lines = [(query, field) for field in fields for query in field.filters]
    variables = {
        "name": name,
        "one": one,
        "row": class_name(one),
        "words": one.replace("_", " "),
        "fields": fields,
        # A column with the name of another column's filter keeps its own filter alone.
        "filters": [
            (query, field) for query, field in lines if query not in columns - {field.name}
        ],
        "is_owned": is_owned,
        "rule": "owner_or_admin" if is_owned else "signed_in",
    }
    templates = {room: TEMPLATES / f"{template}.py.mako" for template, room in ROOMS.items()}
    return {
        room.format(name): Template(filename=str(path)).render(**variables)  # noqa: S702  # no HTML
        for room, path in templates.items()
    }


def _check_clashes(name: str, one: str, rooms: Iterable[str], existing: Survey) -> None:
    """Refuse two classes of one name, or a name that a module or the API has already."""
    nodes = [node for text in rooms for node in ast.walk(ast.parse(text))]
    functions = {node.name for node in nodes if isinstance(node, ast.AsyncFunctionDef)}
    classes = [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    classes += [
        node.targets[0].id
        for node in nodes
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Subscript)
    ]
    defined = {one, *classes}
    if twice := [cls for cls in classes if classes.count(cls) > 1]:
        raise Refusal(f"{twice[0]!r} is taken: give the choice another name")
    imported = {
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module != f"features.{name}.models"
        for alias in node.names
    }
    taken_names = PARAMETERS | imported | existing.classes
    if clash := defined & taken_names or functions & existing.operations:
        raise Refusal(f"{min(clash)!r} is taken: name one of {name} with --singular")


def _ruff(draft: Path, *arguments: str | Path) -> None:
    process = _run(draft, "ruff", *map(str, arguments), "--quiet")
    if process.returncode:
        raise Refusal(f"ruff: {(process.stdout + process.stderr).strip().splitlines()[0]}")


def _migrate(draft: Path, action: str, name: str, tables: Sequence[str]) -> None:
    process = _run(draft, "kernel.dev.scaffold.migration", action, name, *tables)
    if process.returncode:
        raise Refusal(f"no migration: {process.stderr.strip().splitlines()[-1]}")


def _run(draft: Path, module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", module, *arguments]
    # Signals wait while the process starts: else we could end, and leave it running.
    waiting: list[int] = []
    stops = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, lambda *_: waiting.append(1)) for number in stops}
    with subprocess.Popen(  # noqa: S603  # its arguments are checked names
        command,
        cwd=draft,
        env={name: value for name, value in os.environ.items() if not name.startswith("APP_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl+C is ours, so that it can stop what it has started
    ) as process:
        try:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if waiting:
                raise KeyboardInterrupt
            output, errors = process.communicate()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
