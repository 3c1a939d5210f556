"""`new`, `remove` and `merge`, done in a draft of the tree."""

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
# What functions of a slice call their parameters.
PARAMETERS = {"me", "data", "reader", "pager", "paging", "session", "filters"}


def new(draft: Path, name: str, words: Sequence[str], one: str | None) -> None:
    """Write the slice, mount it, and write its migration."""
    known, service = survey(draft), draft / "service.py"
    check_slice(name, known, {word for word, _ in names(service.read_text())})
    one = check_name(one or singular(name))
    fields, is_owned = parse(words, known, one)
    check_length(*_names(name, fields, is_owned))
    rooms = _render(name, one, fields, is_owned)
    _check_words(name, one, rooms.values(), known)
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
    """Take the slice out, and write the migration that drops its tables."""
    folder, service = draft / "features" / name, draft / "service.py"
    known = survey(draft)
    if not known.paths.get(name):
        raise Refusal(f"there is no slice {name!r}")
    tables = [each.name for each in known.tables.values() if each.folder == name]
    if found := references(draft, name, tables, known.paths[name]):
        raise Refusal(f"{name} is still needed by {', '.join(found)}")
    service.write_text(unmount(service.read_text(), name))
    if tables:
        _migrate(draft, "drop", name, tables)
    shutil.rmtree(folder)


def merge(draft: Path) -> None:
    """Join the mounted features of both sides, and the history's heads, where there are several."""
    service = draft / "service.py"
    text = service.read_text()
    joined = join_mounts(text, {path.parent.name for path in draft.glob("features/*/router.py")})
    service.write_text(joined)
    check_resolved(draft)
    if joined != text:
        _ruff(draft, "check", "--fix-only", "--select=I", service)
    _migrate(draft, "merge", "merge", [])


def _names(table: str, fields: Iterable[Field], is_owned: bool) -> Iterable[str]:
    """The longest ones that the database will have."""
    yield f"ix_{table}_owner_id_id" if is_owned else f"pk_{table}"
    for field in fields:
        yield from (f"uq_{table}_{field.name}", f"ix_{table}_{field.name}_id")
        if field.target:
            yield f"fk_{table}_{field.name}_{field.target.name}"


def _render(name: str, one: str, fields: Iterable[Field], is_owned: bool) -> dict[str, str]:
    """The rooms' text by their names: valid, and for ruff to put in order."""
    columns = {field.name for field in fields}
    lines = [(query, field) for field in fields for query in field.filters]
    words = {
        "name": name,
        "one": one,
        "row": class_name(one),
        "words": one.replace("_", " "),
        "fields": fields,
        # Of a column that is called like another one's filter, that is the column's own.
        "filters": [each for each in lines if each[0] not in columns - {each[1].name}],
        "is_owned": is_owned,
        "rule": "owner_or_admin" if is_owned else "signed_in",
    }
    templates = {room: TEMPLATES / f"{each}.py.mako" for each, room in ROOMS.items()}
    return {
        room.format(name): Template(filename=str(path)).render(**words)  # noqa: S702  # no HTML
        for room, path in templates.items()
    }


def _check_words(name: str, one: str, rooms: Iterable[str], known: Survey) -> None:
    """Refuse what would be two things of one name, in a module or in the API's description."""
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
    if twice := [each for each in classes if classes.count(each) > 1]:
        raise Refusal(f"{twice[0]!r} is taken: call the choice something else")
    imported = {
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module != f"features.{name}.models"
        for alias in node.names
    }
    taken = PARAMETERS | imported | known.classes
    if clash := defined & taken or functions & known.operations:
        raise Refusal(f"{min(clash)!r} is taken: say with --singular what else one of {name} is")


def _ruff(draft: Path, *arguments: str | Path) -> None:
    done = _run(draft, "ruff", *map(str, arguments), "--quiet")
    if done.returncode:
        raise Refusal(f"ruff: {(done.stdout + done.stderr).strip().splitlines()[0]}")


def _migrate(draft: Path, action: str, name: str, tables: Sequence[str]) -> None:
    done = _run(draft, "kernel.dev.scaffold.migration", action, name, *tables)
    if done.returncode:
        raise Refusal(f"no migration: {done.stderr.strip().splitlines()[-1]}")


def _run(draft: Path, module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", module, *arguments]
    # What would stop us is held back while it starts, or it would be left behind.
    held: list[int] = []
    stops = (signal.SIGINT, signal.SIGTERM)
    handlers = {each: signal.signal(each, lambda *_: held.append(1)) for each in stops}
    with subprocess.Popen(  # noqa: S603  # the words are checked
        command,
        cwd=draft,
        env={name: value for name, value in os.environ.items() if not name.startswith("APP_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl+C is ours, so that it can stop what it has started
    ) as process:
        try:
            for each, handler in handlers.items():
                signal.signal(each, handler)
            if held:
                raise KeyboardInterrupt
            output, errors = process.communicate()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
