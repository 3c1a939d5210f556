"""The tests that a document names, as `test_x.py::test_y`, and whether they are there."""

import re

from kernel.settings import ROOT


def named_tests(document: str) -> list[tuple[str, str]]:
    """Each file and test that a text names, once."""
    return sorted({*re.findall(r"`(\w+\.py)::(\w+)`", document)})


def is_a_test(file: str, test: str) -> bool:
    """Whether a file of that name, wherever it lies, has that test."""
    paths = [path for top in ("features", "kernel", "tests") for path in (ROOT / top).rglob(file)]
    pattern = re.compile(rf"^(?:async )?def {test}\(", re.MULTILINE)
    return any(pattern.search(path.read_text()) for path in paths)
