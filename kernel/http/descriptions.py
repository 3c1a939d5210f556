"""What readers of the docs page need of the document: examples, and a word on each group."""

import sys
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from kernel.data.lines import LINE_PATTERN
from kernel.data.models import TEXT_PATTERN

# Any words fit these; a page would make up letters and signs that fit.
OF_ANY_WORDS = {TEXT_PATTERN, LINE_PATTERN}


def describe_tags(app: FastAPI) -> list[dict[str, str]]:
    """The tags in the order in which their routers are mounted; what is said of each is the
    docstring of the module that has the router's first operation."""
    described: dict[str, str] = {}
    for route in iter_route_contexts(app.routes):
        is_shown = getattr(route, "include_in_schema", False)
        for tag in (is_shown and getattr(route, "tags", None)) or ():
            module = sys.modules.get(getattr(route.endpoint, "__module__", ""))
            described.setdefault(str(tag), (module and module.__doc__) or "")
    return [{"name": tag, "description": " ".join(it.split())} for tag, it in described.items()]


def add_examples(schemas: dict[str, Any]) -> None:
    """Give the fields that take any words their own names as an example, such as "Full name"."""
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            is_shown = {"examples", "example", "format"} & field.keys() or field.get("default")
            if not is_shown and (words := _words(name, field)):
                field["examples"] = [words]


def _words(name: str, field: dict[str, Any]) -> str | None:
    for choice in (field, *field.get("anyOf", ())):
        if choice.get("pattern") in OF_ANY_WORDS:
            words = name.replace("_", " ").capitalize()[: choice.get("maxLength")]
            return words if len(words) >= choice.get("minLength", 0) else None
    return None
