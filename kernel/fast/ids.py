"""Integers in paths, which are ids."""

from collections.abc import Callable
from inspect import Signature, signature
from typing import Any, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator
from starlette.convertors import Convertor, register_url_convertor

V = TypeVar("V")


class IdConvertor(Convertor[str]):
    """Matches a path segment that is not a plain word, so `/users/me` is not `/users/{user_id}`."""

    regex = "(?![a-z]+(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return str(value)


def plain_int(value: V) -> V:
    """The value, unless it is text that int() accepts and JSON does not.

    Raises:
        ValueError: it is like "1_0" or " 1", or has digits of another script.
    """
    if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdigit()):
        raise ValueError("should be an integer")
    return value


PLAIN_INT = BeforeValidator(plain_int)
register_url_convertor("id", IdConvertor())


def signature_of(endpoint: Callable[..., Any]) -> Signature:
    """The endpoint's signature, with its annotations evaluated if they can be."""
    try:
        return signature(endpoint, eval_str=True)
    except NameError:  # a name imported for type checkers only; FastAPI needs none of these
        return signature(endpoint)


def with_plain_ids(path: str, endpoint: Callable[..., Any]) -> str:
    """The path, with the `id` convertor at its integer parameters: `{item_id}` → `{item_id:id}`."""
    for name, parameter in signature_of(endpoint).parameters.items():
        if _is_plain_id(parameter.annotation):
            path = path.replace(f"{{{name}}}", f"{{{name}:id}}")
    return path


def _is_plain_id(annotation: Any) -> bool:
    """Whether it is an int without a validator that could accept a word."""
    metadata = getattr(annotation, "__metadata__", ())
    kind = get_args(annotation)[0] if metadata else annotation
    return kind is int and all(
        item == PLAIN_INT
        or isinstance(item, AfterValidator)
        or not hasattr(item, "__get_pydantic_core_schema__")
        for item in metadata
    )
