"""Hints in the OpenAPI document for generators of clients, which FastAPI does not give: names of
choices, bounds, and which fields and responses are files."""

import re
from itertools import chain

from kernel.data.models import BIGINT_MAX
from kernel.http.references import add_references
from kernel.http.schemas import ITEM_SCHEMA, Schema, schemas_of, within

NAMES = "x-enum-varnames"
WORD = re.compile(r"[A-Za-z]\w*", re.ASCII)
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# What pydantic calls the rules of a type with a validator, and JSON Schema's keywords for numbers.
RULES = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
RULES |= {"multiple_of": "multipleOf"}
RULES_OF_DIGITS = ("max_digits", "decimal_places")


def add_hints(document: Schema) -> None:
    """Add the hints, and the references to rows. What a slice has set itself stays:
    `Field(schema_extra={"json_schema_extra": …})`."""
    paths, schemas = document["paths"], document.get("components", {}).get("schemas", {})
    operations = [*chain.from_iterable(item.values() for item in paths.values())]
    for answer in chain.from_iterable(one["responses"].values() for one in operations):
        _describe_content(answer.get("content", {}))
    for schema in within([*chain.from_iterable(map(schemas_of, operations)), *schemas.values()]):
        _name_choices(schema)
        _mark_file(schema)
        _show_bounds(schema)
        _round_bounds(schema)
    add_references(paths, schemas)


def _describe_content(content: Schema) -> None:
    """Give a response of a media type alone, `{"text/csv": {}}`, the schema of text or bytes, and
    rename a stream's `itemSchema`: it is of OpenAPI 3.2, and tools for 3.1 would refuse the whole
    document."""
    for media_type, described in content.items():
        if not described and "json" not in media_type:
            is_text = media_type.startswith("text/")
            described["schema"] = {"type": "string"} | ({} if is_text else {"format": "binary"})
        if "itemSchema" in described:
            described[ITEM_SCHEMA] = described.pop("itemSchema")


def _name_choices(schema: Schema) -> None:
    """Give names to choices that are not identifiers: of "-id", a generator would make VALUE_1."""
    choices = schema.get("enum", ())
    is_text = all(isinstance(choice, str) for choice in choices)
    if NAMES in schema or not is_text or all(map(WORD.fullmatch, choices)):
        return
    names = [_name_of(choice) for choice in choices]
    if all(map(WORD.fullmatch, names)) and len({*names}) == len(names):
        schema[NAMES] = names


def _name_of(choice: str) -> str:
    """A name in upper case; "-due,title", which is a sort order, becomes DUE_DESC_TITLE."""
    descending = re.sub(r"(^|,)-(\w+)", r"\1\2_desc", choice)
    name = "_".join(re.findall(r"\w+", descending)).upper()
    return f"VALUE_{name}" if name[:1].isdecimal() else name


def _mark_file(schema: Schema) -> None:
    """Mark a file as OpenAPI 3.0 does, too (`format: binary`), which most tools understand."""
    if schema.get("contentMediaType") == "application/octet-stream":
        schema.setdefault("format", "binary")


def _show_bounds(schema: Schema) -> None:
    """Give an optional type its bounds in JSON Schema's words: pydantic leaves its own."""
    for name in RULES_OF_DIGITS:
        schema.pop(name, None)
    bounds = {RULES[name]: schema.pop(name) for name in RULES.keys() & schema.keys()}
    for choice in (schema, *schema.get("anyOf", ())) if bounds else ():
        if choice.get("type") in {"number", "integer"}:
            # A bound that is a Decimal is text here.
            choice.update({n: float(b) if isinstance(b, str) else b for n, b in bounds.items()})


def _round_bounds(schema: Schema) -> None:
    """Make bounds of integers whole: FastAPI gives 2⁶³-1 as 9.223372036854776e+18, which is 2⁶³."""
    if schema.get("type") == "integer":
        for name in BOUNDS:
            if isinstance(bound := schema.get(name), float) and bound.is_integer():
                schema[name] = min(int(bound), BIGINT_MAX)
