"""The tree of source: a draft of it to work in, what has changed there, and the way back."""

import difflib
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from kernel.dev.scaffold.survey import Refusal

PLACES = (
    *("service.py", "openapi.json", "pyproject.toml", "features", "kernel", "migrations"),
    *("Dockerfile", "deploy"),
)
Contents = dict[str, bytes]


@contextmanager
def draft_of(root: Path) -> Iterator[Path]:
    """A copy of the tree, gone on leaving."""
    with TemporaryDirectory(prefix="julienne-") as folder:
        draft = Path(folder).resolve() / "draft"
        draft.mkdir()
        for place in (each for each in PLACES if (root / each).exists()):
            # With the compiled modules, and the times that make them valid.
            copy = shutil.copytree if (root / place).is_dir() else shutil.copy2
            copy(root / place, draft / place)
        yield draft


def contents(root: Path) -> Contents:
    """Every file by its path."""
    files = [path for place in PLACES for path in (root / place, *(root / place).rglob("*"))]
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }


def changes(before: Contents, after: Contents) -> dict[str, bytes | None]:
    """What each file that is not the same has become; None for nothing."""
    names = sorted({*before, *after})
    return {name: after.get(name) for name in names if before.get(name) != after.get(name)}


def diff(before: Contents, changed: Mapping[str, bytes | None]) -> str:
    """The changes, as a unified diff that `git apply` takes."""
    return "".join(_diff(name, before.get(name), new) for name, new in changed.items())


def _diff(name: str, old: bytes | None, new: bytes | None) -> str:
    a, b = ((each or b"").decode(errors="replace").splitlines(keepends=True) for each in (old, new))
    source = "/dev/null" if old is None else f"a/{name}"
    target = "/dev/null" if new is None else f"b/{name}"
    mode = "new file mode 100644\n" if old is None else ""
    mode = "deleted file mode 100644\n" if new is None else mode
    body = "".join(difflib.unified_diff(a, b, source, target))
    return f"diff --git a/{name} b/{name}\n{mode}{body}"


def apply(root: Path, before: Contents, changed: Mapping[str, bytes | None]) -> None:
    """Make the changes, all of them or none."""
    if contents(root) != before:
        raise Refusal("the tree has changed in the meantime: run it again")
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # too late to stop: this takes milliseconds
    done: list[str] = []
    try:
        for name, new in changed.items():
            done.append(name)
            _write(root / name, new)
    except OSError:
        for name in done:
            _write(root / name, before.get(name))
        raise


def _write(path: Path, new: bytes | None) -> None:
    if new is None:
        path.unlink(missing_ok=True)
        if {each.name for each in path.parent.glob("*")} <= {"__pycache__"}:
            shutil.rmtree(path.parent, ignore_errors=True)
        return
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_bytes(new)
        if path.exists():
            shutil.copymode(path, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
