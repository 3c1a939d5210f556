"""docs/security.md names no test that is gone, and leaves out no requirement."""

import re

import pytest

from kernel.settings import ROOT
from kernel.tests.named_tests import is_a_test, named_tests

pytestmark = pytest.mark.house
DOCUMENT = (ROOT / "docs/security.md").read_text()
ROWS = re.findall(r"^\| ((?:V|API)[\d.]+) \| (.+) \| (.+) \|$", DOCUMENT, re.MULTILINE)
# OWASP ASVS 5.0.0, level 1: the numbers of each section.
LEVEL_1 = {
    "V1.2": "12345", "V1.3": "12", "V1.5": "1", "V2.1": "1", "V2.2": "12", "V2.3": "1",
    "V3.2": "12", "V3.3": "1", "V3.4": "12", "V3.5": "123", "V4.1": "1", "V4.4": "1",
    "V5.2": "12", "V5.3": "12", "V6.1": "1", "V6.2": "12345678", "V6.3": "12", "V6.4": "12",
    "V7.2": "1234", "V7.4": "12", "V8.1": "1", "V8.2": "12", "V8.3": "1", "V9.1": "123",
    "V9.2": "1", "V10.4": "12345", "V11.3": "12", "V11.4": "1", "V12.1": "1", "V12.2": "12",
    "V13.4": "1", "V14.2": "1", "V14.3": "1", "V15.1": "1", "V15.2": "1", "V15.3": "1",
}  # fmt: skip


@pytest.mark.parametrize(("file", "test"), named_tests(DOCUMENT), ids=lambda part: part)
def test_a_test_that_is_named_is_there(file, test):
    told = f"docs/security.md names {file}::{test}: name the test that took its place"
    assert is_a_test(file, test), told


def test_each_requirement_of_level_1_and_each_risk_has_one_row():
    requirements = [f"{section}.{n}" for section, all_ in LEVEL_1.items() for n in all_]
    assert len(requirements) == 70
    risks = [f"API{n}" for n in range(1, 11)]
    assert [number for number, _, _ in ROWS] == requirements + risks


def test_the_document_has_200_lines_at_most():
    assert len(DOCUMENT.splitlines()) <= 200
