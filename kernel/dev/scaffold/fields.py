"""Parses the fields of a slice on the command line: `title:str`, `due:date?`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlmodel import SQLModel

from kernel.dev.scaffold.kinds import KINDS, PLAIN, REFERENCE, TYPES, UNIQUE, Kind, choice_of
from kernel.dev.scaffold.names import check_name, class_name
from kernel.dev.scaffold.survey import Refusal, Survey, TableOf

RESERVED = {
    *dir(SQLModel),
    *("id", "created_at", "updated_at", "version", "owner_id"),
    # PostgreSQL's own columns of every table (manual §5.6).
    *("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"),
}


@dataclass(frozen=True)
class Field:
    name: str
    kind: Kind
    is_optional: bool
    is_unique: bool = False
    target: TableOf | None = None

    @property
    def filters(self) -> dict[str, str]:
        """The lines of this field in the slice's Filter class, by the names of its parameters."""
        kind = self.kind.annotation
        ends = ("",) if self.is_unique else self.kind.filters
        annotation = f"list[{kind}]" if self.kind.words else kind
        default = f"Field(default=None, {self.kind.limits})" if self.kind.limits else "None"
        lines = {self.name + end: f"{annotation} | None = {default}" for end in ends}
        if lines and self.is_optional:
            lines[f"{self.name}_is_null"] = "bool | None = None"
        return {name: f"{name}: {line}" for name, line in lines.items()}

    @property
    def is_indexed(self) -> bool:
        """Whether a filter of the list needs an index; a unique field has one already."""
        return bool(self.kind.filters) and not self.is_unique

    @property
    def valid(self) -> str:
        """A valid value, as Python for the tests."""
        return self.kind.valid.format(self.name.replace("_", " "))

    @property
    def other(self) -> str:
        """Another valid value, as Python for the tests."""
        return self.kind.other.format(self.name.replace("_", " "))

    @property
    def declared(self) -> str:
        """Its line in the class `…Base`."""
        # A plain JSONB would store JSON's null in place of SQL's.
        none = "JSONB(none_as_null=True)" if self.is_optional else "JSONB"
        column = self.kind.column.replace("JSONB", none)
        unique = "unique=True" if self.is_unique else ""
        return self._line(self.is_optional, ", ".join(filter(None, (column, unique))))

    @property
    def changed(self) -> str:
        """Its line in the class `…Update`, where no field is required."""
        return self._line(True, "")

    @property
    def shown(self) -> str:
        """Its line in the class `…Public`, with a plain type: rows were validated when written."""
        annotation = PLAIN.get(self.kind.annotation, self.kind.annotation)
        return f"{self.name}: {annotation}" + (" | None" if self.is_optional else "")

    def _line(self, has_default: bool, column: str) -> str:
        options = ", ".join(filter(None, (self.kind.limits, column)))
        annotation = self.kind.annotation + (" | None" if self.is_optional else "")
        if self.is_optional and not options:
            return f"{self.name}: {annotation} = None"
        arguments = ", ".join(filter(None, ("default=None" if has_default else "", options)))
        return f"{self.name}: {annotation}" + (f" = Field({arguments})" if arguments else "")


def parse(words: Sequence[str], existing: Survey, one: str) -> tuple[list[Field], bool]:
    """The fields, and whether a row belongs to the caller who made it ("owner" is among the words).

    Raises:
        Refusal: a word is no field, a name is there twice, or there is no field.
    """
    fields = [_named(_field(word, existing), one) for word in words if word != "owner"]
    names = [field.name for field in fields] + ["owner"] * words.count("owner")
    if twice := [name for name in names if names.count(name) > 1]:
        raise Refusal(f"{twice[0]!r} is there twice")
    if not fields:
        raise Refusal("there is no field: write one at least, like title:str")
    return fields, "owner" in words


NO_FIELD = (
    "{word!r} is no field: write owner, NAME:TYPE, NAME:TYPE? if it is optional or NAME:TYPE! if it"
    f" is unique, of {TYPES}"
)
WORD = re.compile(
    r"(?P<name>[^:]*?)(?P<early>[?!]*):(?P<kind>[^:(?!]*)"
    r"(?::(?P<rest>[^:?!]*)|\((?P<words>[^()]*)\))?(?P<late>[?!]*)"
)


def _field(word: str, existing: Survey) -> Field:
    parts = WORD.fullmatch(word) or WORD.fullmatch("")
    match parts and parts.group("name", "kind", "rest", "words"):
        case (name, kind, None, None) if kind in KINDS:
            field = Field(_free(name), KINDS[kind], False)
        case (name, "choice", words, None) | (name, "choice", None, words) if words:
            field = Field(_free(name), choice_of(words), False)
        case ("ref", table, None, None):
            field = _reference("", table, existing)
        case (name, "ref", table, None) if table:
            field = _reference(name, table, existing)
        case _:
            raise Refusal(NO_FIELD.format(word=word))
    marks = parts["early"] + parts["late"] if parts else ""
    if len({*marks}) < len(marks):
        raise Refusal(NO_FIELD.format(word=word))
    if "!" in marks and parts and parts["kind"] not in UNIQUE:
        raise Refusal(f"{word!r} cannot be unique: {', '.join(UNIQUE)} can")
    return replace(field, is_optional="?" in marks, is_unique="!" in marks)


def _reference(name: str, table: str, existing: Survey) -> Field:
    target = existing.tables.get(table)
    if target is None or not target.path:
        tables = ", ".join(other.name for other in existing.tables.values() if other.path)
        raise Refusal(f"{table!r} is not a table to refer to: there are {tables}")
    column = f"{name.removesuffix('_id') or target.singular}_id"
    options = f'foreign_key="{table}.id", sa_type=BigInteger'
    return Field(_free(column), replace(REFERENCE, column=options), False, target=target)


def _named(field: Field, one: str) -> Field:
    """The field; one with choices gets the name of its Literal, such as `InvoiceState`."""
    if not field.kind.words:
        return field
    name = class_name(one) + class_name(field.name)
    return replace(field, kind=replace(field.kind, annotation=name))


def _free(name: str) -> str:
    if name in RESERVED or name.startswith("model_"):
        raise Refusal(f"{name!r} is taken: every row or model has an attribute of this name")
    return check_name(name)
