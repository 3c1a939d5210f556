"""The guide knows every name of the vocabulary, and no other."""

import re

import pytest

from kernel.settings import ROOT
from kernel.tests.test_architecture import VOCABULARY, is_about_http

pytestmark = pytest.mark.house
GUIDE = (ROOT / "docs/guide.md").read_text().partition("\n## What is yours")[0]
ROWS = re.findall(r"^\| `(\w+)`( →)? \| (.+) \|$", GUIDE, re.MULTILINE)


def test_each_name_has_one_line_in_the_guide():
    assert sorted(name for name, _, _ in ROWS) == sorted(VOCABULARY)


def test_the_guide_marks_what_is_about_http():
    marked = {name for name, mark, _ in ROWS if mark}
    assert marked == {name for name, module in VOCABULARY.items() if is_about_http(module)}
