"""Walks: tests that are run over every operation of a service, one by one.

A walk's test says over which: `@every(is_list)`. The operations are those of the service, unless a
`conftest.py` gives another `Walk`: `def pytest_walk(): return Walk(create_app)`.
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
    """The app whose operations are walked; only those of the `slices`, if some are given."""

    create_app: Callable[[Settings], FastAPI]
    slices: tuple[str, ...] = ()

    @cached_property
    def app(self) -> FastAPI:
        """The app as it is built, before its lifespan: it has opened nothing."""
        return self.create_app(Settings(_env_file=None))

    @cached_property
    def operations(self) -> list[Operation]:
        return [each for each in operations(self.app) if self.covers(each.hooks)]

    @cached_property
    def hooks(self) -> list[Hooks]:
        return [each for each in all_hooks(self.app) if self.covers(each)]

    def covers(self, hooks: Hooks) -> bool:
        paths = tuple(f"{each.replace('.', '/')}/" for each in self.slices)
        return not paths or hooks.file.startswith(paths)

    def strays(self, *names: str) -> list[str]:
        """What the slices' tests say under these names of operations that are not there."""
        known = {(each.hooks.file, each.name) for each in self.operations}
        return [
            f"{hooks.file}: {name} names no operation: {key!r}"
            for hooks in self.hooks
            for name in names
            for key in hooks.get(name)
            if (hooks.file, key) not in known
        ]


class Hookspecs:
    @pytest.hookspec(firstresult=True)
    def pytest_walk(self) -> Walk | None:
        """The walk for the tests of this folder."""


def any_of(_: Operation) -> bool:
    return True


def every(choose: Choice = any_of) -> pytest.MarkDecorator:
    """Run a test with every operation that is chosen, as its `operation`."""
    return pytest.mark.walk.with_args(choose)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "walk(choose): run with every operation that is chosen")


@pytest.hookimpl(trylast=True)
def pytest_walk() -> Walk:
    from service import create_app  # noqa: PLC0415  # the team's, and maybe not what is walked

    return Walk(create_app)


def walk_of(node: pytest.Item | pytest.Session) -> Walk:
    """What is walked there: the same one, with its app, for as long as equal ones are given."""
    walk: Walk = node.ihook.pytest_walk()
    return _walks.setdefault(walk, walk)


_walks: dict[Walk, Walk] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for marker in metafunc.definition.iter_markers("walk"):
        operations = walk_of(metafunc.definition).operations
        chosen = [each for each in operations if marker.args[0](each)]
        test = metafunc.function
        params = [pytest.param(each, id=str(each), marks=marks_of(each, test)) for each in chosen]
        metafunc.parametrize("operation", params)


def marks_of(operation: Operation, test: Callable[..., Any]) -> list[pytest.MarkDecorator]:
    """Skip the operation if SKIPS tells why."""
    told = reason_to_skip(operation, test)
    return [pytest.mark.skip(reason=f"{operation.title}: {told}")] if told else []


def reason_to_skip(operation: Operation, test: Callable[..., Any]) -> str | None:
    """What SKIPS says of the operation: for all walks, for those of a module, or for one."""
    told: str | dict[str, str] | None = operation.hook("SKIPS")
    if not isinstance(told, dict):
        return told
    return told.get(test.__name__) or told.get(test.__module__.split(".")[-1])


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
    """What to read, and what to write where, when a walk has failed."""
    skip = operation.advise("SKIPS", f'{{"{test}": "why"}}')
    return (
        f"{operation.title} is held to what every operation owes its clients.\n"
        f"If its sample is not valid or its row not ready, {operation.hooks.file} can say SAMPLES,"
        f" KEYS or BEFORE for it.\nIf it is meant to be otherwise, {skip}"
    )
