"""Bounds of a type that a field can narrow but not widen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema

NARROWER: dict[str, Callable[..., Any]] = {"ge": max, "le": min, "lt": min, "min_length": max}


@dataclass(frozen=True)
class Bounds:
    """The bounds of a type: `Annotated[int, Bounds(ge=1)]`. A field of it may have `Field(ge=5)`.

    Pydantic applies a field's own constraints before those of its type, and the later of two
    replaces the other: `Annotated[int, Field(ge=1)] = Field(ge=5)` would accept 1.
    """

    ge: Any = None
    le: Any = None
    lt: Any = None
    min_length: int | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema: Any = {**handler(source)}
        for name, narrower in NARROWER.items():
            if (bound := getattr(self, name)) is not None:
                schema[name] = narrower(bound, schema.get(name, bound))
        return schema  # type: ignore[no-any-return]  # a TypedDict of some class of many
