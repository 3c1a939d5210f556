"""Which responses hold a secret, at any depth: pydantic's schemas tell.

Such a response is never stored, and has no dry run. The declared type of the operation decides. If
that leaves open what is returned (`dict[str, Any]`, or no type at all), each result is looked at.
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

# Of these types of schemas, only an instance shows what is in the response; the same holds for a
# model with extra fields, or one that is serialized as its subclasses.
OPEN_TYPES = ("any", "is-instance", "callable", "function-plain", "function-wrap")
# Keys whose values are not schemas.
NO_SCHEMAS = ("metadata", "default", "expected", "config", "cls", "function")
# Keys whose values are schemas by names of the model.
BY_NAME = ("fields", "choices")
LEAVES = {str, int, float, bool, NoneType, datetime}
CONTAINERS = (list, tuple, set, frozenset)
# FastAPI's default of `response_model`, which stands for the return annotation.
UNDECLARED = signature(APIRoute).parameters["response_model"].default


def has_secret(annotation: Any) -> bool:
    """Whether a response of this type may have a field that is marked `ShownOnce`."""
    return any(SHOWN_ONCE in _dict(schema.get("metadata")) for schema in _schemas_of(annotation))


def is_open(annotation: Any) -> bool:
    """Whether the type leaves open what is in a response."""
    return any(_is_open(schema) for schema in _schemas_of(annotation))


def value_has_secret(value: object) -> bool:
    """Whether a model within a result has a field that is marked `ShownOnce`."""
    if isinstance(value, Mapping):
        return _any_has_secret(value.values())
    if isinstance(value, CONTAINERS):
        return _any_has_secret(value)
    if not isinstance(value, BaseModel) and not is_dataclass(value):
        return False
    kind: Any = type(value)
    extra = getattr(value, "model_extra", None) or {}
    return _class_has_secret(kind) or (
        _class_is_open(kind) and _any_has_secret([*vars(value).values(), *extra.values()])
    )


def _any_has_secret(values: Iterable[object]) -> bool:
    return any(value_has_secret(value) for value in values if type(value) not in LEAVES)


def noting_secrets(endpoint: Callable[..., Any], declared: object) -> Callable[..., Any]:
    """The endpoint; if its `declared` type leaves open what it returns, it also notes in the
    request's context whether its result holds a secret."""
    is_stream = isgeneratorfunction(endpoint) or isasyncgenfunction(endpoint)
    if is_stream or not _is_undecided(endpoint, declared):
        return endpoint

    @wraps(endpoint)
    async def run(*args: Any, **kwargs: Any) -> Any:
        return _note_secret(await endpoint(*args, **kwargs))

    @wraps(endpoint)
    def run_in_thread(*args: Any, **kwargs: Any) -> Any:
        # An instance's `__call__`, or a decorated function, may return a coroutine all the same.
        result = endpoint(*args, **kwargs)
        return _note_secret_later(result) if isawaitable(result) else _note_secret(result)

    return run if iscoroutinefunction(endpoint) else run_in_thread


async def _note_secret_later(result: Awaitable[object]) -> object:
    return _note_secret(await result)


def _note_secret(result: object) -> object:
    context = current_context()
    if context and not isinstance(result, Response):
        context.holds_secret = value_has_secret(result)
    return result


def _is_undecided(endpoint: Callable[..., Any], declared: object) -> bool:
    """Whether neither `response_model` nor the annotation tells what is returned."""
    if isinstance(declared, type(UNDECLARED)):
        declared = signature_of(endpoint).return_annotation
        return declared is Signature.empty or is_open(declared)
    return declared is None or is_open(declared)


def holds_secret(route: APIRoute) -> bool:
    """Whether a declared response of the operation, of any status, has a secret in it."""
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
        for item in part:
            yield from _schemas_in(item)
    if not isinstance(part, Mapping) or part.get("serialization_exclude"):
        return
    yield part
    for name, value in part.items():
        if name in BY_NAME and isinstance(value, Mapping):
            yield from _schemas_in([*value.values()])
        elif name not in NO_SCHEMAS:
            yield from _schemas_in(value)


def _is_open(schema: Mapping[str, Any]) -> bool:
    config = _dict(schema.get("config"))
    has_extra = "allow" in (schema.get("extra_behavior"), config.get("extra_fields_behavior"))
    is_by_instance = config.get("polymorphic_serialization", False)
    has_open_type = schema.get("type") in OPEN_TYPES and "return_schema" not in schema
    return has_open_type or has_extra or is_by_instance


def _dict(part: object) -> Mapping[str, Any]:
    return part if isinstance(part, Mapping) else {}


_class_has_secret = cache(has_secret)
_class_is_open = cache(is_open)
