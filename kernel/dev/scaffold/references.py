"""Finds references to a slice: foreign keys, its tables in SQL, and its paths in the deployment."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path


def references(root: Path, name: str, tables: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Each place outside of the slice, as `file:line`."""
    table = "|".join(tables) or "(?!)"
    # A foreign key, an outline, and SQL.
    uses = rf"""(?i:key)\W+({table})\.|\b[Tt]able\(\W*({table})\W|\b[A-Z]{{4,}} +"?({table})\b"""
    others = [path for path in (root / "features").iterdir() if path.name != name]
    modules = [path for folder in others for path in sorted(folder.rglob("*.py"))]
    texts = [path for path in (root / "deploy").rglob("*") if path.is_file()]
    path = rf"({'|'.join(map(re.escape, paths))})(?![\w-])"
    places = [place for module in modules for place in _places(root, module, uses)]
    for text in (root / "Dockerfile", *sorted(texts)):
        places += _places(root, text, path) if text.exists() else []
    return places


def _places(root: Path, path: Path, pattern: str) -> Iterator[str]:
    text = path.read_text(errors="replace")
    lines = {text.count("\n", 0, match.end() - 1) + 1 for match in re.finditer(pattern, text)}
    yield from (f"{path.relative_to(root)}:{line}" for line in sorted(lines))
