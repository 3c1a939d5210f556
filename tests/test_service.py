"""The service itself: what importing it does, and its app."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HANDLERS = "logging.getLogger().handlers"


@pytest.fixture
def run_line():
    """Run a line of Python in a process of its own: its exit status, standard output and errors."""

    def run_line(line, **variables):
        process = subprocess.run(
            [sys.executable, "-c", line],
            cwd=ROOT,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        return process.returncode, process.stdout, process.stderr

    return run_line


def test_to_import_the_service_reads_no_settings_and_touches_no_log_handler(run_line):
    line = f"import logging, service; print({HANDLERS}, 'app' in vars(service))"
    assert run_line(line, APP_ENV="wrong") == (0, "[] False\n", "")


def test_who_asks_for_the_app_gets_it_once(run_line):
    line = f"import logging, service; print(service.app is service.app, len({HANDLERS}))"
    assert run_line(line)[:2] == (0, "True 1\n")


def test_the_app_needs_settings_that_are_right(run_line):
    status, _, errors = run_line("import service; service.app", APP_ENV="wrong", APP_POOL_SIZE="0")
    assert status == 3
    assert [line.split(":")[0] for line in errors.splitlines()] == ["APP_ENV", "APP_POOL_SIZE"]


def test_the_service_has_nothing_else(run_line):
    status, _, errors = run_line("import service; service.apps")
    assert status == 1
    assert "module 'service' has no attribute 'apps'" in errors
