"""What tools need of the OpenAPI document, and FastAPI does not say: names for choices, and which
fields and answers are files."""

import re
from itertools import chain

from kernel.data.models import BIGINT_MAX
from kernel.http.references import add_references
from kernel.http.schemas import ITEM_SCHEMA, Schema, schemas_of, within

NAMES = "x-enum-varnames"
WORD = re.compile(r"[A-Za-z]\w*", re.ASCII)
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def add_hints(document: Schema) -> None:
    """Add them, and what rows are referred to. What a slice says itself stays:
    `Field(schema_extra={"json_schema_extra": …})`."""
    paths, schemas = document["paths"], document.get("components", {}).get("schemas", {})
    operations = [*chain.from_iterable(item.values() for item in paths.values())]
    for answer in chain.from_iterable(each["responses"].values() for each in operations):
        _describe_content(answer.get("content", {}))
    for schema in within([*chain.from_iterable(map(schemas_of, operations)), *schemas.values()]):
        _name_choices(schema)
        _mark_file(schema)
        _round_bounds(schema)
    add_references(paths, schemas)


def _describe_content(content: Schema) -> None:
    """An answer of a media type alone, `{"text/csv": {}}`, is text or bytes; and of a stream, what
    its parts are is OpenAPI 3.2's, which tools for 3.1 refuse the whole document for."""
    for media_type, described in content.items():
        if not described and "json" not in media_type:
            is_text = media_type.startswith("text/")
            described["schema"] = {"type": "string"} | ({} if is_text else {"format": "binary"})
        if "itemSchema" in described:
            described[ITEM_SCHEMA] = described.pop("itemSchema")


def _name_choices(schema: Schema) -> None:
    """Names for choices that make none, such as "-id": a client would call it VALUE_1."""
    choices = schema.get("enum", ())
    is_text = all(isinstance(choice, str) for choice in choices)
    if NAMES in schema or not is_text or all(map(WORD.fullmatch, choices)):
        return
    names = [_name_of(choice) for choice in choices]
    if all(map(WORD.fullmatch, names)) and len({*names}) == len(names):
        schema[NAMES] = names


def _name_of(choice: str) -> str:
    """ "-due,title" is an order, and DUE_DESC_TITLE."""
    descending = re.sub(r"(^|,)-(\w+)", r"\1\2_desc", choice)
    name = "_".join(re.findall(r"\w+", descending)).upper()
    return f"VALUE_{name}" if name[:1].isdecimal() else name


def _mark_file(schema: Schema) -> None:
    """Most tools know OpenAPI 3.0's word for a file, beside that of JSON Schema."""
    if schema.get("contentMediaType") == "application/octet-stream":
        schema.setdefault("format", "binary")


def _round_bounds(schema: Schema) -> None:
    """FastAPI makes 9.223372036854776e+18 of 2⁶³-1, which is one more."""
    if schema.get("type") == "integer":
        for name in BOUNDS:
            if isinstance(bound := schema.get(name), float) and bound.is_integer():
                schema[name] = min(int(bound), BIGINT_MAX)
