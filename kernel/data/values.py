"""What JSON says loosely and Postgres holds exactly: moments, days, numbers, documents."""

import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, WithJsonSchema

from kernel.data.bounds import Bounds
from kernel.data.models import BIGINT_MAX, storable


def _like(form: str, example: str) -> BeforeValidator:
    """Refuse text and numbers of another form: pydantic takes seconds for a date, "1_0" for ten."""

    def check(given: object) -> object:
        if not isinstance(given, str | int | float):
            return given
        # A JSON number is a double, and 0.57 may come as 0.5700000000000001.
        text = f"{given:.15g}" if isinstance(given, float) else str(given)
        is_other = isinstance(given, float) and abs(given - float(text)) > 1e-6
        if is_other or not re.fullmatch(form, text):
            raise ValueError(f"should be like {example}")
        return text

    return BeforeValidator(check)


def _in_range(moment: datetime) -> datetime:
    # An offset can carry year 1 or 9999 out of Python's range, and Postgres reaches further.
    if not 1970 <= moment.year < 9000:
        raise ValueError("should be between the years 1970 and 9000")
    return moment.astimezone(UTC)


Timestamp = Annotated[
    AwareDatetime,
    _like(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ].+", "2030-12-31T12:00:00Z"),
    AfterValidator(_in_range),
]
"""A moment with its offset, kept in UTC."""

Day = Annotated[
    date,
    Bounds(lt=date(9000, 1, 1)),  # asyncpg takes the last day of 9999 for infinity
    _like("[0-9]{4}-[0-9]{2}-[0-9]{2}", "2030-12-31"),
]
"""A date without a time."""


def _number(given: object) -> object:
    # "7" and true are no numbers; 7.0 is a whole one (JSON Schema, Validation §6.1.1).
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number:
        raise ValueError("should be a number")
    return given


NUMBER = BeforeValidator(_number)
Whole = Annotated[int, Bounds(ge=-(2**31), le=2**31 - 1), NUMBER]
"""A whole number that an integer column holds."""

RowId = Annotated[int, Bounds(ge=1, le=BIGINT_MAX), NUMBER]
"""The id of a row that the request refers to. Give it the table: `Field(foreign_key=…)`."""

DIGITS = r"-?[0-9]{1,10}(\.[0-9]{1,2})?"
MOST = 9_999_999_999.99
# Of OpenAPI's registry of formats; a float of a client's own would be inexact.
AS_TEXT = {"type": "string", "format": "decimal", "pattern": f"^{DIGITS}$"}
EXACT = "An exact number with two decimals, such as money: text in answers, and never a float."
Amount = Annotated[
    Decimal,
    _like(DIGITS, "12.50"),
    # The sum with 0 has no minus zero.
    AfterValidator(lambda amount: amount.quantize(Decimal("0.01")) + 0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": -MOST, "maximum": MOST, "multipleOf": 0.01},
                AS_TEXT,
            ],
            "description": EXACT,
        },
        mode="validation",
    ),
    WithJsonSchema(AS_TEXT | {"description": EXACT}, mode="serialization"),
]
"""An exact number with two decimals: `Field(max_digits=12, decimal_places=2)`. Answers have it as
text, because a JSON number is inexact to most readers."""


def storable_document(document: dict[str, Any]) -> dict[str, Any]:
    """The JSON object, unless JSONB cannot hold it or it is too much of it."""
    _check_part(document, levels=20)
    if len(json.dumps(document)) > 10_000:
        raise ValueError("should have at most 10000 characters")
    return document


def _check_part(part: Any, levels: int) -> None:
    if isinstance(part, str):
        storable(part).encode()  # raises for half of a surrogate pair
    elif isinstance(part, int | float) and not abs(part) <= BIGINT_MAX:  # NaN is never
        raise ValueError("should hold numbers of 64 bits")
    elif isinstance(part, dict | list) and not levels:
        raise ValueError("should not be so deep")
    elif isinstance(part, dict | list):
        for each in [*part, *part.values()] if isinstance(part, dict) else part:
            _check_part(each, levels - 1)


Document = Annotated[dict[str, Any], AfterValidator(storable_document)]
"""A JSON object of any form, of 10,000 characters at most: `Field(sa_type=JSONB)`."""
