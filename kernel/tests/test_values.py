"""The types of fields: what they take can be stored and read again, and the rest is refused."""

import re
from datetime import date

import pytest
from pydantic import TypeAdapter, ValidationError
from sqlmodel import Field

from kernel.data.models import Input, Line, Text
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


class Narrowed(Input):
    """Fields with bounds of their own, narrower than their types' or wider."""

    number: Whole = Field(default=5, gt=0, le=10)
    wide: Whole = Field(default=5, ge=-(2**40), le=2**40)
    row_id: RowId = Field(default=5, le=10)
    day: Day = Field(default=date(2020, 1, 1), ge=date(2020, 1, 1), lt=date(2021, 1, 1))
    line: Line = Field(default="abc", min_length=3, max_length=5)
    amount: Amount = Field(default=5, ge=0, max_digits=3)
    maybe: Whole | None = Field(default=None, ge=1, le=10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("number", 0), ("number", 11), ("wide", 2**31), ("wide", -(2**31) - 1)),
        *(("row_id", 0), ("row_id", 11), ("day", "2019-12-31"), ("day", "2021-01-01")),
        *(("line", "ab"), ("line", "abcdef"), ("amount", -1), ("amount", "99.99")),
        *(("maybe", 0), ("maybe", 11)),
    ],
)
def test_a_field_narrows_the_bounds_of_its_type_and_never_widens_them(name, value):
    Narrowed(number=10, row_id=1, day="2020-12-31", line="abc", amount="9.99", maybe=1)
    with pytest.raises(ValidationError, match=name):
        Narrowed(**{name: value})


def test_openapi_tells_the_narrower_bounds():
    fields = Narrowed.model_json_schema()["properties"]
    assert (fields["row_id"]["minimum"], fields["row_id"]["maximum"]) == (1, 10)
    assert fields["line"]["minLength"] == 3
