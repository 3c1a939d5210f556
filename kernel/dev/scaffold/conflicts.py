"""Conflict markers that a git merge leaves in the tree."""

import re
from collections.abc import Container, Iterator
from pathlib import Path

from kernel.dev.scaffold.survey import Refusal

BEGIN = re.compile(r"^<{7} ", re.MULTILINE)
# Also with the common ancestor's lines, which git shows with `merge.conflictStyle=zdiff3`.
CONFLICT = re.compile(
    r"^<{7} [^\n]*\n(?P<ours>.*?)(?:^\|{7}[^\n]*\n.*?)?^={7}\n(?P<theirs>.*?)^>{7} [^\n]*\n",
    re.MULTILINE | re.DOTALL,
)
MOUNT = re.compile(
    r"from features\.(?P<imported>\w+) import router as \w+\n"
    r"|    app\.include_router\((?P<mounted>\w+)\.router\b.*\)\n"
)


def join_mounts(text: str, slices: Container[str]) -> str:
    """`service.py` with the lines of both sides, in each conflict where one only mounts features.

    The line of a feature that one side has removed is left out.
    """

    def join(conflict: re.Match[str]) -> str:
        ours, theirs = (conflict[side].splitlines(keepends=True) for side in ("ours", "theirs"))
        if not (_only_mounts(ours) or _only_mounts(theirs)):
            return conflict[0]
        lines = [*ours, *(line for line in theirs if line not in ours)]
        return "".join(line for line in lines if not _mounted(line) or _mounted(line) in slices)

    return CONFLICT.sub(join, text)


def check_resolved(root: Path) -> None:
    """Refuse sources with conflict markers.

    Raises:
        Refusal: with the first one's file and line.
    """
    for path in _sources(root):
        text = path.read_text(errors="replace")
        if marker := BEGIN.search(text):
            line = text.count("\n", 0, marker.start()) + 1
            raise Refusal(f"{path.relative_to(root)}:{line} is in conflict: resolve it first")


def _only_mounts(lines: list[str]) -> bool:
    return all(_mounted(line) or not line.strip() for line in lines)


def _mounted(line: str) -> str:
    """The feature that a line imports or mounts, or an empty text."""
    match = MOUNT.fullmatch(line)
    return (match["imported"] or match["mounted"]) if match else ""


def _sources(root: Path) -> Iterator[Path]:
    for pattern in ("*.py", "*.toml"):
        yield from sorted(root.rglob(pattern))
