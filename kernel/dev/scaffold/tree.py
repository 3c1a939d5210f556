"""The source tree: a draft of it to work in, the changes there, and applying them."""

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
    """A copy of the tree in a temporary folder, removed on leaving."""
    with TemporaryDirectory(prefix="julienne-") as folder:
        draft = Path(folder).resolve() / "draft"
        draft.mkdir()
        for place in PLACES:
            if not (root / place).exists():
                continue
            # Also `__pycache__`, with the times of files that keep it valid: imports are faster.
            copy = shutil.copytree if (root / place).is_dir() else shutil.copy2
            copy(root / place, draft / place)
        yield draft


def contents(root: Path) -> Contents:
    """Every file's bytes by its path below the root."""
    files = [path for place in PLACES for path in (root / place, *(root / place).rglob("*"))]
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }


def changes(before: Contents, after: Contents) -> dict[str, bytes | None]:
    """The new bytes of each file that differs, or None for a removed one."""
    names = sorted({*before, *after})
    return {name: after.get(name) for name in names if before.get(name) != after.get(name)}


def diff(before: Contents, changed: Mapping[str, bytes | None]) -> str:
    """The changes, as a unified diff that `git apply` takes."""
    return "".join(_diff(name, before.get(name), new) for name, new in changed.items())


def _diff(name: str, old: bytes | None, new: bytes | None) -> str:
    texts = [(content or b"").decode(errors="replace") for content in (old, new)]
    a, b = (text.splitlines(keepends=True) for text in texts)
    source = "/dev/null" if old is None else f"a/{name}"
    target = "/dev/null" if new is None else f"b/{name}"
    mode = "new file mode 100644\n" if old is None else ""
    mode = "deleted file mode 100644\n" if new is None else mode
    body = "".join(difflib.unified_diff(a, b, source, target))
    return f"diff --git a/{name} b/{name}\n{mode}{body}"


def apply(root: Path, before: Contents, changed: Mapping[str, bytes | None]) -> None:
    """Make all changes in the tree, or none.

    Raises:
        Refusal: the tree is not as it was `before`.
        OSError: a file could not be written; the others are as before.
    """
    if contents(root) != before:
        raise Refusal("the tree has changed in the meantime: run it again")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the rest takes milliseconds
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
        if {file.name for file in path.parent.glob("*")} <= {"__pycache__"}:
            shutil.rmtree(path.parent, ignore_errors=True)
        return
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(new)
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
