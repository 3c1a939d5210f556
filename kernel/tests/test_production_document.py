"""docs/production.md names nothing that is gone; each symptom of its runbook is made somewhere."""

import json
import re

import pytest
import yaml

from kernel.http import gauges, job_gauges  # noqa: F401  # they make metrics
from kernel.jobs import runs  # noqa: F401  # so does it
from kernel.metrics import FAMILIES
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


# Metrics.

METRICS = DOCUMENT.partition("\n## Metrics\n")[2].partition("\n## ")[0]
OBSERVABILITY = ROOT / "deploy/observability"
(GROUP,) = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())["groups"]
DASHBOARD = json.loads((OBSERVABILITY / "dashboard.json").read_text())
EXPRESSIONS = [
    *(rule["expr"] for rule in GROUP["rules"]),
    *(
        each["expr"].replace("[$__rate_interval]", "").replace('job="$job"', 'job=""')
        for place in (*DASHBOARD["panels"], {"targets": DASHBOARD["annotations"]["list"]})
        for each in place["targets"]
    ),
]
# Prometheus itself adds the first two, and `le` is a histogram's.
ADDED_LABELS = {"job", "instance", "le"}
SELECTOR = re.compile(r"([a-z_]\w*)\{([^}]*)\}")
WORD = re.compile(r"\b[a-z]\w*\b(?!\s*\()")
KEYWORDS = {"by", "and", "unless", "offset", *ADDED_LABELS}


def described():
    """The metrics of the manual's table, with the labels of their row."""
    for names, labels, _ in re.findall(r"^\| (`.*?) \| (.*?) ?\| (.*) \|$", METRICS, re.MULTILINE):
        first = ""
        for name in re.findall(r"`([^`]+)`", names):
            first = first or name
            whole = name.replace("…", first.removesuffix("_size"))
            yield whole, {*re.findall(r"`(\w+)`", labels)}


def metric_of(name):
    return FAMILIES.get(re.sub(r"_(bucket|sum|count)$", "", name))


def test_each_metric_is_described_with_its_labels():
    table = dict(described())
    ours = {name: family for name, family in FAMILIES.items() if not name.startswith("test_")}
    assert table.keys() == ours.keys()
    assert [name for name, family in ours.items() if not {*family.labels} <= table[name]] == []


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_the_alerts_and_the_dashboard_ask_for_is_counted(expression):
    asked = SELECTOR.findall(expression)
    for name, selected in asked:
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', selected):
            if name != "up" and label not in ADDED_LABELS:
                assert label in metric_of(name).labels
                # A pattern of statuses is none of the words that the table names.
                words = value.split("|") if value.replace("|", "").isalpha() else ()
                assert [word for word in words if f"`{word}`" not in METRICS] == []
    bare = re.sub(r"\{[^}]*\}|\[\w+\]|\d\S*", "", expression)
    grouped = {
        label for labels in re.findall(r"by \(([^)]*)\)", bare) for label in labels.split(", ")
    }
    names = {*WORD.findall(re.sub(r"by \([^)]*\)", "", bare))} - KEYWORDS - {"up"}
    assert [name for name in names if metric_of(name) is None] == []
    labels = {label for name in names for label in metric_of(name).labels}
    assert grouped <= labels | ADDED_LABELS


def test_each_alert_has_its_place_in_the_runbook():
    told = " ".join(cells[0] for cells in SYMPTOMS)
    assert [rule["alert"] for rule in GROUP["rules"] if f"`{rule['alert']}`" not in told] == []


def test_the_table_has_each_drill_and_all_of_them_hold():
    assert {name for name, _ in MEASURED} == DRILLS.keys()
    assert {verdict for _, verdict in MEASURED} == {"holds"}
