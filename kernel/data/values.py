"""Types of times, dates, numbers and JSON objects that PostgreSQL can store exactly."""

import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from kernel.data.bounds import Bounds
from kernel.data.models import BIGINT_MAX, storable


def _like(form: str, example: str) -> BeforeValidator:
    """Refuse text and numbers of another form: pydantic reads a number as a date, "1_0" as ten."""

    def check(value: object) -> object:
        if not isinstance(value, str | int | float):
            return value
        # A JSON number is a double, and 0.57 may arrive as 0.5700000000000001.
        text = f"{value:.15g}" if isinstance(value, float) else str(value)
        is_rounded = isinstance(value, float) and abs(value - float(text)) > 1e-6
        if is_rounded or not re.fullmatch(form, text):
            raise ValueError(f"should be like {example}")
        return text

    return BeforeValidator(check)


def _in_range(moment: datetime) -> datetime:
    # Converted to UTC, a time of the year 1 or 9999 may be out of Python's range.
    if not 1970 <= moment.year < 9000:
        raise ValueError("should be between the years 1970 and 9000")
    return moment.astimezone(UTC)


Timestamp = Annotated[
    AwareDatetime,
    _like(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ].+", "2030-12-31T12:00:00Z"),
    AfterValidator(_in_range),
]
"""A time with its UTC offset, converted to UTC."""

Day = Annotated[
    date,
    Bounds(lt=date(9000, 1, 1)),  # asyncpg reads the last day of 9999 as infinity
    _like("[0-9]{4}-[0-9]{2}-[0-9]{2}", "2030-12-31"),
]
"""A date without a time."""


def _number(value: object) -> object:
    # "7" and true are not numbers; 7.0 is an integer (JSON Schema, Validation §6.1.1).
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number:
        raise ValueError("should be a number")
    return value


NUMBER = BeforeValidator(_number)
Whole = Annotated[int, Bounds(ge=-(2**31), le=2**31 - 1), NUMBER]
"""An integer of 32 bits, as an INTEGER column stores it."""

RowId = Annotated[int, Bounds(ge=1, le=BIGINT_MAX), NUMBER]
"""The id of another row. Name its table by `Field(foreign_key=…)`."""

DIGITS = r"-?[0-9]{1,10}(\.[0-9]{1,2})?"
MOST = 9_999_999_999.99
# "decimal" is in OpenAPI's format registry; a client that used floats would be inexact.
AS_TEXT = {"type": "string", "format": "decimal", "pattern": f"^{DIGITS}$"}
AS_NUMBER = {"type": "number", "minimum": -MOST, "maximum": MOST, "multipleOf": 0.01}
EXACT = "An exact number with two decimals, such as money: text in answers, and never a float."


class _AmountInJson:
    """The JSON Schema of an amount. The bounds of its field are those of a number: JSON Schema has
    none for text."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        own = handler(schema)
        if handler.mode == "serialization":
            # A serializer of a team's may make something else of it.
            return {"description": EXACT} | own | AS_TEXT if own.get("type") == "string" else own
        if "anyOf" not in own:
            return own  # with a validator of a team's instead of these
        number, _ = own["anyOf"]
        return {"description": EXACT} | own | {"anyOf": [AS_NUMBER | number, {**AS_TEXT}]}


Amount = Annotated[
    Decimal,
    _like(DIGITS, "12.50"),
    # Adding 0 turns minus zero into zero.
    AfterValidator(lambda amount: amount.quantize(Decimal("0.01")) + 0),
    _AmountInJson(),
]
"""An exact number with two decimals: `Field(max_digits=12, decimal_places=2)`. Responses have it as
text, because most clients read a JSON number as a float, which is inexact."""


def storable_document(document: dict[str, Any]) -> dict[str, Any]:
    """The JSON object, if JSONB can store it and it is within the limits.

    Raises:
        ValueError: it cannot be stored, has over 10,000 characters, or is nested over 20 levels.
    """
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
        raise ValueError("should have at most 20 levels")
    elif isinstance(part, dict | list):
        for child in [*part, *part.values()] if isinstance(part, dict) else part:
            _check_part(child, levels - 1)


Document = Annotated[dict[str, Any], AfterValidator(storable_document)]
"""A JSON object with any members, of at most 10,000 characters: `Field(sa_type=JSONB)`."""
