"""Walks: tests that run once for every operation of a service.

A test chooses its operations: `@every(is_list)`. They are those of the service, unless a
`conftest.py` provides another app: `def pytest_walk(): return Walk(create_app)`.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from fastapi import FastAPI

from kernel.settings import Settings
from kernel.testing.hooks import Hooks, all_hooks
from kernel.testing.operations import Operation, operations

WALKS = (
    "contract",
    "injections",
    "pages",
    "query_plans",
    "reads",
    "boundary",
    "versions",
    "authorization",
    "round_trips",
)
Choice = Callable[[Operation], bool]


@dataclass(frozen=True)
class Walk:
    """The app whose operations are tested, or only those of `slices` ("features.items")."""

    create_app: Callable[[Settings], FastAPI]
    slices: tuple[str, ...] = ()

    @cached_property
    def app(self) -> FastAPI:
        """The app without its lifespan: it has opened no connection."""
        return self.create_app(Settings(_env_file=None))

    @cached_property
    def operations(self) -> list[Operation]:
        return [one for one in operations(self.app) if self.covers(one.hooks)]

    @cached_property
    def hooks(self) -> list[Hooks]:
        return [hooks for hooks in all_hooks(self.app) if self.covers(hooks)]

    def covers(self, hooks: Hooks) -> bool:
        paths = tuple(f"{slice_.replace('.', '/')}/" for slice_ in self.slices)
        return not paths or hooks.file.startswith(paths)

    def strays(self, *names: str) -> list[str]:
        """The entries of these hooks that name no operation, a line for each."""
        operations = {(one.hooks.file, one.name) for one in self.operations}
        return [
            f"{hooks.file}: {name} names no operation: {key!r}"
            for hooks in self.hooks
            for name in names
            for key in hooks.get(name)
            if (hooks.file, key) not in operations
        ]


class Hookspecs:
    @pytest.hookspec(firstresult=True)
    def pytest_walk(self) -> Walk | None:
        """The walk for the tests of this folder."""


def any_of(_: Operation) -> bool:
    return True


def every(choose: Choice = any_of) -> pytest.MarkDecorator:
    """A mark: run the test for every operation that `choose` accepts, as argument `operation`."""
    return pytest.mark.walk.with_args(choose)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "walk(choose): run with every operation that is chosen")


@pytest.hookimpl(trylast=True)
def pytest_walk() -> Walk:
    from service import create_app  # noqa: PLC0415  # the team's, and maybe not the app under test

    return Walk(create_app)


def walk_of(node: pytest.Item | pytest.Session) -> Walk:
    """The walk for this place. Equal walks share one app, which takes a while to build."""
    walk: Walk = node.ihook.pytest_walk()
    return _walks.setdefault(walk, walk)


_walks: dict[Walk, Walk] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for marker in metafunc.definition.iter_markers("walk"):
        operations = walk_of(metafunc.definition).operations
        chosen = [one for one in operations if marker.args[0](one)]
        test = metafunc.function
        params = [pytest.param(one, id=str(one), marks=marks_of(one, test)) for one in chosen]
        metafunc.parametrize("operation", params)


def marks_of(operation: Operation, test: Callable[..., Any]) -> list[pytest.MarkDecorator]:
    """A skip mark with the reason that SKIPS gives, if it gives one."""
    reason = reason_to_skip(operation, test)
    return [pytest.mark.skip(reason=f"{operation.title}: {reason}")] if reason else []


def reason_to_skip(operation: Operation, test: Callable[..., Any]) -> str | None:
    """The reason in SKIPS: for all walks, for a walk by its module's name, or for one test."""
    entry: str | dict[str, str] | None = operation.hook("SKIPS")
    if not isinstance(entry, dict):
        return entry
    return entry.get(test.__name__) or entry.get(test.__module__.split(".")[-1])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (operation := operation_of(item)):
        report.sections.append(("walk", advice(operation, item.originalname)))  # type: ignore[attr-defined]  # of a function
    return report


def operation_of(item: pytest.Item) -> Operation | None:
    params = getattr(getattr(item, "callspec", None), "params", {})
    operation = params.get("operation")
    return operation if isinstance(operation, Operation) else None


def advice(operation: Operation, test: str) -> str:
    """The section that a failed walk's report gets: which hooks to write into which file."""
    skip = operation.advise("SKIPS", f'{{"{test}": "why"}}')
    return (
        f"{operation.title}: this test runs for every operation.\n"
        f"If its sample is not valid or its row not ready, {operation.hooks.file} can say SAMPLES,"
        f" KEYS or BEFORE for it.\nIf it is meant to be otherwise, {skip}"
    )
