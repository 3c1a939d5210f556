"""`--without=plan,rows`: the same tests with short ways off, so that each is held against the long
one that stands behind it. `all` is all of them.

A test is left out where it would be the same again: of the ways that it came to when it last
passed, the same ones were off.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from kernel.fast.switches import OFF, Switches

LAYERS = ("plan", "statements", "rows")
KNOWN = "kernel/short_ways"  # in pytest's cache: of each test, what was off and what it came to
_met: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    told = f"turn short ways off: all, or some of {', '.join(LAYERS)}"
    parser.addoption("--without", default="", metavar="LAYERS", help=told)


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--without")
    layers = set(LAYERS if given == "all" else filter(None, given.split(",")))
    if unknown := layers - {*LAYERS}:
        raise pytest.UsageError(f"--without knows {', '.join(LAYERS)}: no {', '.join(unknown)}")
    OFF.update(layers)
    Switches.__contains__ = _is_off  # type: ignore[method-assign]
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Notes(getattr(config, "cache", None)))


def _is_off(switches: set[str], layer: object) -> bool:
    if isinstance(layer, str):
        _met.add(layer)
    return set.__contains__(switches, layer)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    cache = getattr(config, "cache", None)
    if not OFF or cache is None:
        return
    known = cache.get(KNOWN, {})
    others = {item for item in items if any(_is_same(*run) for run in known.get(item.nodeid, ()))}
    config.hook.pytest_deselected(items=list(others))
    items[:] = [item for item in items if item not in others]


def _is_same(off: list[str], met: list[str]) -> bool:
    return OFF.intersection(met) == {*off}.intersection(met)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    _met.clear()
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    item.user_properties.append((KNOWN, sorted(_met)))


class _Notes:
    """Which of the ways each test that passes has come to, and which of all were off."""

    def __init__(self, cache: pytest.Cache | None) -> None:
        self.cache = cache
        self.passed: set[str] = set()
        self.met: dict[str, object] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        elif report.when == "teardown" and report.nodeid in self.passed:
            self.met[report.nodeid] = dict(report.user_properties)[KNOWN]

    def pytest_sessionfinish(self) -> None:
        if self.cache is not None:
            known = self.cache.get(KNOWN, {})
            for name, met in self.met.items():
                # With all ways on, it is of now; what was before may be of another state.
                known[name] = [*(known.get(name, ()) if OFF else ()), (sorted(OFF), met)]
            self.cache.set(KNOWN, known)


@contextmanager
def off(*layers: str) -> Iterator[None]:
    """Only these short ways are off, whatever the tests are run with; afterwards as before."""
    before = {*OFF}
    OFF.clear()
    OFF.update(layers)
    try:
        yield
    finally:
        OFF.clear()
        OFF.update(before)


def needs(*layers: str) -> pytest.MarkDecorator:
    """Skip a test about a short way when that is off."""
    return pytest.mark.skipif(not OFF.isdisjoint(layers), reason=f"without {', '.join(layers)}")
