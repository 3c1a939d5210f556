"""Additions to the OpenAPI document for readers: examples, and descriptions of tags."""

import sys
from collections.abc import Iterator
from math import inf
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from kernel.data.lines import LINE_PATTERN, STORED_LINE
from kernel.data.models import TEXT_PATTERN

# Patterns that any words match; a docs page would invent letters and signs that match.
FREE_TEXT_PATTERNS = {TEXT_PATTERN, LINE_PATTERN, f"^{STORED_LINE}$"}


def describe_tags(app: FastAPI) -> list[dict[str, str]]:
    """The tags in the order in which their routers are mounted. A tag's description is the
    docstring of the module with the router's first operation."""
    described: dict[str, str] = {}
    for route in iter_route_contexts(app.routes):
        is_shown = getattr(route, "include_in_schema", False)
        for tag in (is_shown and getattr(route, "tags", None)) or ():
            module = sys.modules.get(getattr(route.endpoint, "__module__", ""))
            described.setdefault(str(tag), (module and module.__doc__) or "")
    return [{"name": tag, "description": " ".join(text.split())} for tag, text in described.items()]


def add_examples(schemas: dict[str, Any]) -> None:
    """Give fields of free text, and lists of it, their own names as examples, such as "Full name",
    and numbers some that people would type: a docs page would make up letters that fit, or take
    the lowest bound."""
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            is_shown = {"examples", "example"} & field.keys() or field.get("default")
            if not is_shown and (example := _example(name, field)) is not None:
                field["examples"] = [example]


def _example(name: str, field: dict[str, Any]) -> Any | None:
    for choice in _choices(field):
        if examples := choice.get("examples"):
            return examples[0]
        if choice.get("pattern") in FREE_TEXT_PATTERNS and "format" not in choice:
            text = name.replace("_", " ").capitalize()[: choice.get("maxLength")]
            minimum = choice.get("minLength", 0)
            return text if len(text.strip()) >= minimum else "x" * minimum
        if choice.get("multipleOf") == 0.01 or choice.get("format") == "decimal":
            return "12.50" if _is_within(choice, 12.5) else None
        if choice.get("type") == "integer" and choice.get("minimum", 0) < 0:
            number: int = min(1, choice.get("maximum", 1), choice.get("exclusiveMaximum", 2) - 1)
            return number
        if isinstance(items := choice.get("items"), dict) and (element := _example(name, items)):
            return [element] * max(1, choice.get("minItems", 0))
    return None


def _is_within(schema: dict[str, Any], number: float) -> bool:
    least, most = schema.get("minimum", number), schema.get("maximum", number)
    above, below = schema.get("exclusiveMinimum", -inf), schema.get("exclusiveMaximum", inf)
    return bool(least <= number <= most and above < number < below)


def _choices(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The field's schema and its alternatives; those of null and of an amount may be nested."""
    yield field
    for choice in field.get("anyOf", ()):
        yield from _choices(choice)
