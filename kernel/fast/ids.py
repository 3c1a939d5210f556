"""Integers in paths, which are ids."""

from collections.abc import Callable
from inspect import Signature, signature
from typing import Any, TypeVar

from pydantic import BeforeValidator
from starlette.convertors import Convertor, register_url_convertor
from typing_inspection.typing_objects import is_typealiastype

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
    """The endpoint's signature, with its annotations evaluated if they can be, and with the
    types that `type` statements name (PEP 695) in the place of the names."""
    try:
        declared = signature(endpoint, eval_str=True)
    except NameError:  # a name imported for type checkers only; FastAPI needs none of these
        declared = signature(endpoint)
    parameters = [*declared.parameters.values()]
    if not any(is_typealiastype(parameter.annotation) for parameter in parameters):
        return declared
    unnamed = [
        parameter.replace(annotation=without_name(parameter.annotation)) for parameter in parameters
    ]
    return declared.replace(parameters=unnamed)


def without_name(annotation: Any) -> Any:
    """The type that the annotation is, or that it is a name of."""
    while is_typealiastype(annotation):
        annotation = annotation.__value__
    return annotation
