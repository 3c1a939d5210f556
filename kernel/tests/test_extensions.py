"""What a team changes without touching `kernel/`: the changes of an area in a copy, whose
tests then pass."""

import json
import os
import re
import subprocess
import sys

import pytest

from kernel.settings import ROOT, STARTUP_FAILURE
from kernel.tests.extensions import identity, service, shared
from kernel.tests.extensions.changes import CHANGES, change_everything
from kernel.tests.extensions.copies import SUITE, copy_to
from kernel.tests.test_architecture import violations

# What walks over every operation does so once, in a copy with all the changes.
# They change what Julienne ships, which a team has changed already.
pytestmark = [pytest.mark.house, pytest.mark.slow]


@pytest.fixture
def copy(tmp_path):
    return copy_to(tmp_path / "copy")


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize("area", CHANGES)
def test_the_team_changes_this_without_touching_the_kernel(copy, area):
    """All of a team's tests run where all is changed at once, which is below."""
    for change in CHANGES[area]:
        change(copy)
    copy.passes(*copy.tests, *SUITE[1:])


@pytest.mark.slow(seconds=30)
def test_the_team_changes_all_of_this_at_once(copy):
    """`.ci/run` runs all of a team's tests in such a copy, on another Python."""
    change_everything(copy)
    copy.works("ruff", "check")
    copy.works("ruff", "format", "--check")
    copy.works("mypy", ".")


def test_who_may_do_what_is_printed_with_keys_and_a_third_role(copy):
    identity.add_role(copy)
    printed = copy.works("pytest", "-q", "-n0", "tests/test_authorization.py", "--matrix")
    [kinds] = [line.split()[1:] for line in printed.splitlines() if line.startswith("operation ")]
    found = re.findall(r"^\w+ \S+ \((\w+)\)((?: +(?:\d+|-))+)$", printed, re.MULTILINE)
    seen = {name: dict(zip(kinds, cells.split(), strict=True)) for name, cells in found}
    assert (seen["get_ledger"]["accountant"], seen["get_ledger"]["other"]) == ("200", "403")
    assert (seen["update_user"]["accountant"], seen["update_user"]["admin"]) == ("403", "200")
    assert (seen["create_key"]["owner"], seen["create_key"]["key"]) == ("201", "403")
    assert seen["get_item"]["accountant"] == seen["get_item"]["other"] == "404"
    assert {row["nobody"] for name, row in seen.items() if name != "create_user"} >= {"401"}


@pytest.mark.parametrize(
    "command",
    ["uvicorn service:app", "alembic upgrade head", "features.users promote x"],
)
def test_each_command_tells_what_is_wrong_with_the_settings_of_a_slice(copy, command):
    service.add_settings(copy)
    done = copy.run(*command.split(), MAIL_PORT="x", MAIL_HOST="canary")
    assert (done.status, done.output) == (STARTUP_FAILURE, "")
    (line,) = done.errors.splitlines()
    assert line.startswith("MAIL_PORT: ")


def test_what_slices_share_knows_no_slice(copy):
    shared.share(copy)
    assert violations(copy.root) == []
    copy.write("features/shared/mistake.py", "from features.quotes.models import Quote\n")
    told = "features/shared/mistake.py:1 imports features.quotes.models.Quote"
    assert violations(copy.root) == [told]


# A tool or a test imports it, wherever it is run, and whatever it has been told.
IMPORTING = """
import json, logging
before = [*logging.getLogger().handlers], logging.getLogger().level
import service
after = [*logging.getLogger().handlers], logging.getLogger().level
print(json.dumps(before == after), flush=True)
service.app
"""


def test_importing_the_service_does_nothing_until_its_app_is_asked_for():
    own = {name: each for name, each in os.environ.items() if not name.startswith("APP_")}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING],
        cwd=ROOT,
        env=own | {"APP_POOL_SIZE": "canary", "APP_ENV": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)) == (STARTUP_FAILURE, True)
    names = [line.partition(":")[0] for line in done.stderr.splitlines()]
    assert sorted(names) == ["APP_ENV", "APP_POOL_SIZE"]
    assert "canary" not in done.stderr
