"""The fields of a slice, as they are written on the command line: `title:str`, `due:date?`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlmodel import SQLModel

from kernel.dev.scaffold.names import check_name
from kernel.dev.scaffold.survey import Refusal, Survey, TableOf

TAKEN = {
    *dir(SQLModel),
    *("id", "created_at", "updated_at", "version", "owner_id"),
    # PostgreSQL's own columns of every table (manual §5.6).
    *("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"),
}


@dataclass(frozen=True)
class Kind:
    """What a type becomes: its annotation, limits and column, and values for the tests."""

    annotation: str
    valid: str
    other: str
    wrong: tuple[str, ...]
    limits: str = ""
    column: str = ""


TEXTS = '"Some {}"', '"Another {}"'
DAYS = '"2030-01-02"', '"1815-12-10"'
MOMENTS = '"2030-01-02T03:04:05Z"', '"1970-01-02T03:04:05.678900Z"'
UUIDS = '"00000000-0000-4000-8000-000000000001"', '"00000000-0000-4000-8000-000000000002"'
LINES = ('" "', '"x" * 201', r'"NUL \x00"')
NUMBERS = ('"NaN"', "0.001", "10**10")
KINDS = {
    "str": Kind("Line", *TEXTS, LINES, "max_length=200"),
    "text": Kind("Text", *TEXTS, ('"x" * 10_001', r'"NUL \x00"'), "max_length=10_000"),
    "int": Kind("Whole", "7", "-8", ("2**31", "1.5", '"7"')),
    "decimal": Kind("Amount", '"12.50"', '"-0.05"', NUMBERS, "max_digits=12, decimal_places=2"),
    "bool": Kind("bool", "True", "False", ('"perhaps"', "2")),
    "date": Kind("Day", *DAYS, ('"2030-02-30"', "0")),
    "datetime": Kind("Timestamp", *MOMENTS, ('"2030-01-02T03:04:05"', "0")),
    "uuid": Kind("UUID", *UUIDS, ('"1"', "1")),
    "json": Kind(
        "Document",
        '{{"a": [1, 2.5, None]}}',
        "{{}}",
        ("[]", r'{"a": "NUL \x00"}'),
        column="sa_type=JSONB",
    ),
}
REFERENCE = Kind("RowId", "", "", ("0", '"x"'))
# What a type is in an answer; the others have a form of their own in JSON.
PLAIN = {
    **dict.fromkeys(["Line", "Text"], "str"),
    **dict.fromkeys(["Whole", "RowId"], "int"),
    "Day": "date",
    "Timestamp": "datetime",
}
TYPES = ", ".join([*KINDS, "ref:TABLE"])


@dataclass(frozen=True)
class Field:
    name: str
    kind: Kind
    is_optional: bool
    target: TableOf | None = None

    @property
    def valid(self) -> str:
        return self.kind.valid.format(self.name.replace("_", " "))

    @property
    def other(self) -> str:
        return self.kind.other.format(self.name.replace("_", " "))

    @property
    def declared(self) -> str:
        """Its line in the table's base."""
        # A plain JSONB would hold JSON's null.
        none = "JSONB(none_as_null=True)" if self.is_optional else "JSONB"
        return self._line(self.is_optional, self.kind.column.replace("JSONB", none))

    @property
    def changed(self) -> str:
        """Its line in the update, where nothing is required."""
        return self._line(True, "")

    @property
    def shown(self) -> str:
        """Its line in the answer, whose rows were judged when they were written."""
        annotation = PLAIN.get(self.kind.annotation, self.kind.annotation)
        return f"{self.name}: {annotation}" + (" | None" if self.is_optional else "")

    def _line(self, has_default: bool, column: str) -> str:
        options = ", ".join(filter(None, (self.kind.limits, column)))
        annotation = self.kind.annotation + (" | None" if self.is_optional else "")
        if self.is_optional and not options:
            return f"{self.name}: {annotation} = None"
        given = ", ".join(filter(None, ("default=None" if has_default else "", options)))
        return f"{self.name}: {annotation}" + (f" = Field({given})" if given else "")


def parse(words: Sequence[str], known: Survey) -> tuple[list[Field], bool]:
    """The fields, and whether a row belongs to its maker."""
    fields = [_field(word, known) for word in words if word != "owner"]
    names = [field.name for field in fields] + ["owner"] * words.count("owner")
    if twice := [name for name in names if names.count(name) > 1]:
        raise Refusal(f"{twice[0]!r} is there twice")
    if not fields:
        raise Refusal("there is no field: write one at least, like title:str")
    return fields, "owner" in words


def _field(word: str, known: Survey) -> Field:
    name, *rest = word.split(":")
    is_optional = name.endswith("?") or word.endswith("?")
    match [name.removesuffix("?"), *(each.removesuffix("?") for each in rest)]:
        case [name, kind] if kind in KINDS:
            return Field(_free(name), KINDS[kind], is_optional)
        case ["ref", table]:
            return replace(_reference("", table, known), is_optional=is_optional)
        case [name, "ref", table]:
            return replace(_reference(name, table, known), is_optional=is_optional)
    raise Refusal(f"{word!r} is no field: write owner, NAME:TYPE or NAME:TYPE?, of {TYPES}")


def _reference(name: str, table: str, known: Survey) -> Field:
    target = known.tables.get(table)
    if target is None or not target.path:
        tables = ", ".join(each.name for each in known.tables.values() if each.path)
        raise Refusal(f"{table!r} is no table to refer to: there are {tables}")
    column = f"{name.removesuffix('_id') or target.singular}_id"
    options = f'foreign_key="{table}.id", sa_type=BigInteger, index=True'
    return Field(_free(column), replace(REFERENCE, column=options), False, target)


def _free(name: str) -> str:
    if name in TAKEN or name.startswith("model_"):
        raise Refusal(f"{name!r} is taken: every row or model has something of this name")
    return check_name(name)
