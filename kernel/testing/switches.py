"""`--without=plan,rows`: run tests with short ways off, to compare each with the general code.

`all` turns all of them off. A test is deselected if it would only repeat its last pass: of the
short ways that it reached then, the same ones were off as now.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from kernel.fast.switches import OFF, Switches

LAYERS = ("plan", "statements", "rows")
# A key of pytest's cache. By test: what was off and what was reached in each run that it passed.
RUNS = "kernel/short_ways"
_reached: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = f"turn short ways off: all, or some of {', '.join(LAYERS)}"
    parser.addoption("--without", default="", metavar="LAYERS", help=help_text)


def pytest_configure(config: pytest.Config) -> None:
    option = config.getoption("--without")
    layers = set(LAYERS if option == "all" else filter(None, option.split(",")))
    if unknown := layers - {*LAYERS}:
        raise pytest.UsageError(f"--without takes {', '.join(LAYERS)}, not {', '.join(unknown)}")
    OFF.update(layers)
    Switches.__contains__ = _is_off  # type: ignore[method-assign]
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_RunRecorder(getattr(config, "cache", None)))


def _is_off(switches: set[str], layer: object) -> bool:
    if isinstance(layer, str):
        _reached.add(layer)
    return set.__contains__(switches, layer)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    cache = getattr(config, "cache", None)
    if not OFF or cache is None:
        return
    runs = cache.get(RUNS, {})
    repeated = {item for item in items if any(_is_same(*run) for run in runs.get(item.nodeid, ()))}
    config.hook.pytest_deselected(items=list(repeated))
    items[:] = [item for item in items if item not in repeated]


def _is_same(off: list[str], reached: list[str]) -> bool:
    return OFF.intersection(reached) == {*off}.intersection(reached)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    _reached.clear()
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    item.user_properties.append((RUNS, sorted(_reached)))


class _RunRecorder:
    """Stores, of each test that passes, which short ways it reached, and which were off."""

    def __init__(self, cache: pytest.Cache | None) -> None:
        self.cache = cache
        self.passed: set[str] = set()
        self.reached: dict[str, object] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        elif report.when == "teardown" and report.passed and report.nodeid in self.passed:
            self.reached[report.nodeid] = dict(report.user_properties)[RUNS]

    def pytest_sessionfinish(self) -> None:
        if self.cache is not None:
            runs = self.cache.get(RUNS, {})
            for name, reached in self.reached.items():
                # A run with all short ways on starts anew: earlier ones may be of older code.
                runs[name] = [*(runs.get(name, ()) if OFF else ()), (sorted(OFF), reached)]
            self.cache.set(RUNS, runs)


@contextmanager
def off(*layers: str) -> Iterator[None]:
    """Within the block, only these short ways are off, whatever `--without` says."""
    before = {*OFF}
    OFF.clear()
    OFF.update(layers)
    try:
        yield
    finally:
        OFF.clear()
        OFF.update(before)


def needs(*layers: str) -> pytest.MarkDecorator:
    """Skip a test of a short way when that is off."""
    return pytest.mark.skipif(not OFF.isdisjoint(layers), reason=f"without {', '.join(layers)}")
