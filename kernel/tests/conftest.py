"""The kernel's tests have an app of their own, with slices that no service mounts."""

import os
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from kernel.settings import ROOT
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


def pytest_configure() -> None:
    # For the copies of the tree whose types are checked, which differ in a few files: 1 s of 8. The
    # first one begins with what is known of the tree itself.
    cache, worker = ROOT / ".mypy_cache", os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    if cache.exists() and not (cache / "copies" / worker).exists():
        ignored = shutil.ignore_patterns("copies")
        shutil.copytree(cache, cache / "copies" / worker, ignore=ignored)
    os.environ["MYPY_CACHE_DIR"] = str(cache / "copies" / worker)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, for each worker as many: xdist gives each a part of the whole in one
    piece, and what is long would leave all but one core without work at the end."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    others = [item for item in items if not _seconds(item)]
    longest = sorted(filter(_seconds, items), key=_seconds, reverse=True)
    parts = [(number * len(others) // workers) for number in range(workers + 1)]
    items[:] = [
        item
        for number in range(workers)
        for item in longest[number::workers] + others[parts[number] : parts[number + 1]]
    ]


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
