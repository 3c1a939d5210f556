"""The types of fields: what they take can be stored and read again, and the rest is refused."""

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from kernel.data.models import Line, Text
from kernel.data.values import Amount, Day, Document, RowId, Timestamp, Whole


def nested(levels):
    return {"a": nested(levels - 1)} if levels else {}


HOLDS = {"a": [2**63 - 1, 1e18, None, True, "\u20ac"]}
TAKEN = {
    "an amount": (
        Amount,
        {"12.5": "12.50", 57 * 0.01: "0.57", -0.0: "0.00", "-0": "0.00", 7: "7.00"},
    ),
    "the most": (Amount, {"-9999999999.99": "-9999999999.99"}),
    "a day": (Day, {"0001-01-01": "0001-01-01", "8999-12-31": "8999-12-31"}),
    "a moment": (Timestamp, {"2030-01-02T03:04:05+14:00": "2030-01-01 13:04:05+00:00"}),
    "a number": (Whole, {-(2**31): "-2147483648", 2**31 - 1: "2147483647", 7.0: "7"}),
    "an id": (RowId, {2**63 - 1: "9223372036854775807"}),
}
REFUSED = {
    "an amount": (Amount, ["NaN", "1e3", "1_0", " 1", "\u0661", "0.001", "1\n", "1" * 5000]),
    "an amount in numbers": (
        Amount,
        [
            float("inf"),
            float("nan"),
            1234567890.124,
            9999999999.994,
            -9999999999.990004,
            0.001,
            10**10,
            10**5000,
            True,
            [[]],
        ],
    ),
    "a day": (
        Day,
        ["9000-01-01", "20300102", "2030-01-02T00:00:00", "2030-02-30", 0, 1e9, "\u0661"],
    ),
    "a moment": (
        Timestamp,
        [0, 1e9, "1000000000", "2030-01-02", "2030-01-02T03:04:05", "infinity"],
    ),
    "a far moment": (Timestamp, ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]),
    "a number": (Whole, [2**31, -(2**31) - 1, 1.5, "1", True]),
    "an id": (RowId, [0, 2**63, 1e300, float("nan"), "1", True]),
    "a document": (Document, [[], None, "{}", {"a\x00": 1}, {"a": ["\x00"]}, {"\ud800": {}}]),
    "numbers in it": (Document, [{"a": each} for each in (2**63, 10**5000, 1e300, float("nan"))]),
    "texts in it": (Document, [{"a": "\ud800"}, {"a": "x" * 10_000}]),
    "its depth": (Document, [nested(20), nested(900)]),
}


@pytest.mark.parametrize("what", TAKEN)
def test_a_value_is_taken_as_it_will_be_read(what):
    kind = TypeAdapter(TAKEN[what][0])
    for given, kept in TAKEN[what][1].items():
        taken = kind.validate_python(given)
        assert str(taken) == kept
        assert kind.validate_python(taken) == taken


def test_a_document_is_taken_as_it_is():
    for document in (HOLDS, nested(19)):
        assert TypeAdapter(Document).validate_python(document) == document


@pytest.mark.parametrize("what", REFUSED)
def test_a_value_that_cannot_be_kept_is_refused(what):
    kind, values = REFUSED[what]
    for given in values:
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(given)


@pytest.mark.parametrize("kind", [Line, Text], ids=["Line", "Text"])
@pytest.mark.parametrize(
    "text", ["a", " a ", "a\nb", " ", "\x85", "\ufeff", "", "\x00", "\x00a", "a\x00", " \x00 "]
)
def test_a_pattern_lets_in_what_the_validators_let_in(kind, text):
    adapter = TypeAdapter(kind)
    try:
        is_let_in = bool(adapter.validate_python(text) == text)
    except ValidationError:
        is_let_in = False
    assert bool(re.search(adapter.json_schema()["pattern"], text)) == is_let_in
