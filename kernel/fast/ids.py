"""Whole numbers in paths, which are ids."""

from collections.abc import Callable
from inspect import Signature, signature
from typing import Any, TypeVar

from pydantic import BeforeValidator
from starlette.convertors import Convertor, register_url_convertor
from typing_inspection.typing_objects import is_typealiastype

V = TypeVar("V")


class IdConvertor(Convertor[str]):
    """A plain word is no id: `/users/me` is its own routes' path, and not `/users/{user_id}`'s."""

    regex = "(?![a-z]+(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return str(value)


def plain_int(value: V) -> V:
    """The value, unless it is a text that only int() takes for a number.

    Raises:
        ValueError: it is "1_0", " 1", or of digits of another script.
    """
    if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdigit()):
        raise ValueError("should be an integer")
    return value


PLAIN_INT = BeforeValidator(plain_int)
register_url_convertor("id", IdConvertor())


def signature_of(endpoint: Callable[..., Any]) -> Signature:
    """The endpoint's signature, with its annotations evaluated if they can be, and with what
    `type` statements give a name to (PEP 695) in its place."""
    try:
        declared = signature(endpoint, eval_str=True)
    except NameError:  # a name for type checkers alone, which FastAPI can do without
        declared = signature(endpoint)
    parameters = [*declared.parameters.values()]
    if not any(is_typealiastype(each.annotation) for each in parameters):
        return declared
    unnamed = [each.replace(annotation=without_name(each.annotation)) for each in parameters]
    return declared.replace(parameters=unnamed)


def without_name(annotation: Any) -> Any:
    """The type that the annotation is, or that it is a name of."""
    while is_typealiastype(annotation):
        annotation = annotation.__value__
    return annotation
