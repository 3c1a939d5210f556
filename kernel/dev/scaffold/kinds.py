"""The types of a slice's fields: their code in models, and values for the tests."""

import re
from dataclasses import dataclass

from kernel.dev.scaffold.names import LONGEST
from kernel.dev.scaffold.survey import Refusal


@dataclass(frozen=True)
class Kind:
    """What a type becomes. All but `filters` and `words` are Python code.

    `annotation`, `limits` and `column` are for its line in a model; `valid`, `other` and `wrong`
    are values for the tests; `filters` are the suffixes of its query parameters ("" is equality).
    `words` are the values of a choice. `another`, of a type that may be unique, is an expression
    that has another value for each value of the variable `number`.
    """

    annotation: str
    valid: str
    other: str
    wrong: tuple[str, ...]
    limits: str = ""
    column: str = ""
    filters: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    another: str = ""


TEXTS = '"Some {}"', '"Another {}"'
DAYS = '"2030-01-02"', '"1815-12-10"'
MOMENTS = '"2030-01-02T03:04:05Z"', '"1970-01-02T03:04:05.678900Z"'
UUIDS = '"00000000-0000-4000-8000-000000000001"', '"00000000-0000-4000-8000-000000000002"'
LINES = ('" "', '"x" * 201', r'"NUL \x00"')
NUMBERS = ('"NaN"', "0.001", "10**10")
LONG = "ge=-(2**63), le=2**63 - 1"
EMAILS = '"some@example.com"', '"another@example.com"'
EMAIL, ID = 'f"number{number}@example.com"', 'f"00000000-0000-4000-8000-00000000001{number}"'
RANGE = ("_min", "_before")
KINDS = {
    "str": Kind("Line", *TEXTS, LINES, "max_length=200", another='f"Number {number}"'),
    "text": Kind("Text", *TEXTS, ('"x" * 10_001', r'"NUL \x00"'), "max_length=10_000"),
    "int": Kind("Whole", "7", "-8", ("2**31", "1.5", '"7"'), another="number"),
    "decimal": Kind("Amount", '"12.50"', '"-0.05"', NUMBERS, "max_digits=12, decimal_places=2"),
    "bigint": Kind(
        "StrictInt",
        "2**40",
        "-(2**63)",
        ("2**63", "1.5", '"7"'),
        LONG,
        "sa_type=BigInteger",
        another="number",
    ),
    "bool": Kind("bool", "True", "False", ('"perhaps"', "2")),
    "date": Kind("Day", *DAYS, ('"2030-02-30"', "0"), filters=RANGE),
    "datetime": Kind("Timestamp", *MOMENTS, ('"2030-01-02T03:04:05"', "0"), filters=RANGE),
    "email": Kind("Email", *EMAILS, ('"nobody"', '"x" * 255'), "max_length=254", another=EMAIL),
    "uuid": Kind("UUID", *UUIDS, ('"1"', "1"), another=ID),
    "json": Kind(
        "Document",
        '{{"a": [1, 2.5, None]}}',
        "{{}}",
        ("[]", r'{"a": "NUL \x00"}'),
        column="sa_type=JSONB",
    ),
}
REFERENCE = Kind("RowId", "", "", ("0", '"x"'), filters=("",))
# No other types: a longer text does not fit into an index, and the others have few values.
UNIQUE = [name for name, kind in KINDS.items() if kind.another]
# A type's annotation in a response, without limits. Types that are not here keep theirs.
PLAIN = {
    **dict.fromkeys(["Line", "Text"], "str"),
    **dict.fromkeys(["Whole", "RowId"], "int"),
    "StrictInt": "int",
    "Email": "str",
    "Day": "date",
    "Timestamp": "datetime",
}
TYPES = ", ".join([*KINDS, "choice(a,b)", "ref:TABLE"])
WORD = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def choice_of(text: str) -> Kind:
    """The type of a column that has one of these words ("open,closed").

    Raises:
        Refusal: there are less than two words, or one is invalid or there twice.
    """
    words = tuple(word.strip() for word in text.split(","))
    if bad := [word for word in words if not WORD.fullmatch(word) or len(word) > LONGEST]:
        raise Refusal(
            f"{bad[0]!r} is no choice: write lower-case letters, digits and single underscores"
        )
    if len(words) < 2 or len({*words}) < len(words):
        raise Refusal(f"choice({text}) is no choice: write two different words at least")
    first, *_, last = (f'"{word}"' for word in words)
    column = f"sa_type=String({LONGEST})"
    return Kind("", first, last, ('"no such word"', "7"), "", column, ("",), words)
