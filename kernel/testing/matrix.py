"""Prints who may do what: the status that each kind of caller got in the walk over authorization.

`uv run pytest tests/test_authorization.py --matrix`
"""

from collections.abc import Iterator

import pytest

SEEN = "seen by the walk over authorization"
UNTRIED = "-"  # a kind of caller that this operation was not tried with


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "print who may do what, as the walk over authorization has seen it"
    parser.addoption("--matrix", action="store_true", help=help_text)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("matrix"):
        reports = terminalreporter.getreports("passed")
        seen = dict(
            value for report in reports for name, value in report.user_properties if name == SEEN
        )
        terminalreporter.section("who may do what: the status that each caller got")
        for line in matrix(seen):
            terminalreporter.write_line(line)


def matrix(seen: dict[str, dict[str, int]]) -> Iterator[str]:
    """A table's lines: operations by path, with a column of statuses for each kind of caller."""
    kinds = [*dict.fromkeys(kind for statuses in seen.values() for kind in statuses)]
    width = max(map(len, seen), default=0)
    yield "  ".join(["operation".ljust(width), *kinds])
    for title, statuses in sorted(seen.items(), key=_by_path):
        cells = [str(statuses.get(kind, UNTRIED)).ljust(len(kind)) for kind in kinds]
        yield "  ".join([title.ljust(width), *cells]).rstrip()


def _by_path(row: tuple[str, dict[str, int]]) -> list[str]:
    method, path, *rest = row[0].split()
    return [path, method, *rest]
