"""Which answers hold a secret: found in pydantic's schemas, so however deep it lies.

Such an answer is never stored, and cannot be rehearsed. What the operation declares says it, unless
that leaves open what is answered (`dict[str, Any]`, nothing at all): then each answer is looked at.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from datetime import datetime
from functools import cache, wraps
from inspect import (
    Signature,
    isasyncgenfunction,
    isawaitable,
    iscoroutinefunction,
    isgeneratorfunction,
    signature,
)
from types import NoneType
from typing import Any

from fastapi import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter

from kernel.context import current_context
from kernel.data.models import SHOWN_ONCE
from kernel.fast.ids import signature_of

# Of these an instance decides what is in the answer; so it does of a model that has further fields,
# or is answered with those of its subclasses.
OPEN_TYPES = ("any", "is-instance", "callable", "function-plain", "function-wrap")
# What lies here is no schema.
NO_SCHEMAS = ("metadata", "default", "expected", "config", "cls", "function")
# The keys of these are names of the model's own.
BY_NAME = ("fields", "choices")
LEAVES = {str, int, float, bool, NoneType, datetime}
CONTAINERS = (list, tuple, set, frozenset)
# What stands for a `response_model` that nobody has given: then the annotation says it.
UNDECLARED = signature(APIRoute).parameters["response_model"].default


def has_secret(annotation: Any) -> bool:
    """Whether an answer of this type may have a field that is marked `ShownOnce`."""
    return any(SHOWN_ONCE in _dict(schema.get("metadata")) for schema in _schemas_of(annotation))


def is_open(annotation: Any) -> bool:
    """Whether only the answer itself tells what is in it."""
    return any(_is_open(schema) for schema in _schemas_of(annotation))


def value_has_secret(value: object) -> bool:
    """Whether a model within an answer has a field that is marked."""
    if isinstance(value, Mapping):
        return _any_has_secret(value.values())
    if isinstance(value, CONTAINERS):
        return _any_has_secret(value)
    if not isinstance(value, BaseModel) and not is_dataclass(value):
        return False
    kind: Any = type(value)
    further = getattr(value, "model_extra", None) or {}
    return _class_has_secret(kind) or (
        _class_is_open(kind) and _any_has_secret([*vars(value).values(), *further.values()])
    )


def _any_has_secret(values: Iterable[object]) -> bool:
    return any(value_has_secret(value) for value in values if type(value) not in LEAVES)


def noting_secrets(endpoint: Callable[..., Any], declared: object) -> Callable[..., Any]:
    """The endpoint, which also remembers that its answer holds a secret, if what is `declared` of
    it does not tell."""
    is_stream = isgeneratorfunction(endpoint) or isasyncgenfunction(endpoint)
    if is_stream or not _is_undecided(endpoint, declared):
        return endpoint

    @wraps(endpoint)
    async def run(*args: Any, **kwargs: Any) -> Any:
        return _noted(await endpoint(*args, **kwargs))

    @wraps(endpoint)
    def run_in_thread(*args: Any, **kwargs: Any) -> Any:
        # An instance's `__call__` and what a decorator calls may be coroutines' for all that.
        result = endpoint(*args, **kwargs)
        return _noted_later(result) if isawaitable(result) else _noted(result)

    return run if iscoroutinefunction(endpoint) else run_in_thread


async def _noted_later(result: Awaitable[object]) -> object:
    return _noted(await result)


def _noted(result: object) -> object:
    context = current_context()
    if context and not isinstance(result, Response):
        context.holds_secret = value_has_secret(result)
    return result


def _is_undecided(endpoint: Callable[..., Any], declared: object) -> bool:
    """Whether neither `response_model` nor the annotation says what is answered."""
    if isinstance(declared, type(UNDECLARED)):
        declared = signature_of(endpoint).return_annotation
        return declared is Signature.empty or is_open(declared)
    return declared is None or is_open(declared)


def holds_secret(route: APIRoute) -> bool:
    """Whether what the operation says of its answers, of any status, has a secret in it."""
    others = [answer.get("model") for answer in route.responses.values()]
    return any(map(has_secret, [route.response_model, route.stream_item_type, *others]))


def _schemas_of(annotation: Any) -> Iterator[Mapping[str, Any]]:
    try:
        schema = TypeAdapter(annotation).core_schema
    except Exception:  # noqa: BLE001  # a Response, or what FastAPI will refuse
        return iter(())
    return _schemas_in(schema)


def _schemas_in(part: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(part, list | tuple):
        for each in part:
            yield from _schemas_in(each)
    if not isinstance(part, Mapping) or part.get("serialization_exclude"):
        return
    yield part
    for name, each in part.items():
        if name in BY_NAME and isinstance(each, Mapping):
            yield from _schemas_in([*each.values()])
        elif name not in NO_SCHEMAS:
            yield from _schemas_in(each)


def _is_open(schema: Mapping[str, Any]) -> bool:
    config = _dict(schema.get("config"))
    has_more = "allow" in (schema.get("extra_behavior"), config.get("extra_fields_behavior"))
    is_by_instance = config.get("polymorphic_serialization", False)
    is_unsaid = schema.get("type") in OPEN_TYPES and "return_schema" not in schema
    return is_unsaid or has_more or is_by_instance


def _dict(part: object) -> Mapping[str, Any]:
    return part if isinstance(part, Mapping) else {}


_class_has_secret = cache(has_secret)
_class_is_open = cache(is_open)
