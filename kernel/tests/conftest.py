"""The kernel's tests have an app of their own, with slices that no service mounts."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from kernel.testing.suite import (  # noqa: F401  # fixtures, for these tests alone
    CreateApp,
    Migrate,
    database,
    database_url,
    running_app,
    settings,
    sql_connection,
    template,
)
from kernel.testing.walking import Walk
from kernel.tests import app
from kernel.tests.ends import end_connections  # noqa: F401  # a fixture


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: at the end, they would leave all but one core without work."""
    items.sort(key=_seconds, reverse=True)


def _seconds(item: pytest.Item) -> int:
    slow = item.get_closest_marker("slow")
    return slow.kwargs.get("seconds", 0) if slow else 0


def pytest_walk() -> Walk:
    return app.WALK


@pytest.fixture(scope="session")
def create_app() -> CreateApp:
    return app.create_walked_app


@pytest.fixture(scope="session")
def migrate() -> Migrate:
    return app.migrate


@pytest.fixture
def fail_first(fail_first: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
    """Let the first inserts of peelings fail: `await fail_first(times=2)`."""
    return partial(fail_first, "peelings")
