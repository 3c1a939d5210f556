"""docs/production.md names nothing that is gone; each symptom of its runbook is made somewhere."""

import re

import pytest

from kernel.settings import ROOT, Settings
from kernel.tests.faults.drills import DRILLS
from kernel.tests.named_tests import is_a_test, named_tests

pytestmark = pytest.mark.house
DOCUMENT = (ROOT / "docs/production.md").read_text()
SYMPTOMS = [
    row.split(" | ")
    for row in DOCUMENT.partition("\n## Runbook\n")[2].partition("\n## ")[0].splitlines()
    if row.startswith("| ") and not row.startswith("| symptom ")
]
MEASURED = re.findall(
    r"^\| ([\w-]+) \| .* \| (\S+) \|$",
    DOCUMENT.partition("\n## What was measured\n")[2],
    re.MULTILINE,
)


@pytest.mark.parametrize(("file", "test"), named_tests(DOCUMENT), ids=lambda part: part)
def test_a_test_that_is_named_is_there(file, test):
    told = f"docs/production.md names {file}::{test}: name the test that took its place"
    assert is_a_test(file, test), told


def test_a_drill_that_is_named_is_there():
    named = {*re.findall(r"drill `(\w+)`", DOCUMENT)}
    assert named
    assert named - DRILLS.keys() == set()


def test_a_setting_that_is_named_is_there():
    named = {*re.findall(r"\bAPP_(\w+)", DOCUMENT)}
    assert len(named) > 5
    assert named - {name.upper() for name in Settings.model_fields} == set()


def test_each_symptom_of_the_runbook_is_made_by_a_test_or_a_drill():
    assert len(SYMPTOMS) >= 12
    for cells in SYMPTOMS:
        assert len(cells) == 4, cells
        assert re.search(r"drill `\w+`|`\w+\.py::\w+`", cells[3]), f"what makes this: {cells[0]}?"


def test_the_table_has_each_drill_and_all_of_them_hold():
    assert {name for name, _ in MEASURED} == DRILLS.keys()
    assert {verdict for _, verdict in MEASURED} == {"holds"}
