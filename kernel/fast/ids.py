"""Whole numbers in paths, which are ids."""

from collections.abc import Callable, Iterable
from inspect import Parameter, Signature, signature
from typing import Any, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator
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


def with_plain_ids(path: str, parameters: Iterable[Parameter]) -> str:
    """The path, with its whole numbers marked as ids."""
    for parameter in parameters:
        if _is_plain_id(parameter.annotation):
            path = path.replace(f"{{{parameter.name}}}", f"{{{parameter.name}:id}}")
    return path


def _is_plain_id(annotation: Any) -> bool:
    """Whether it is a whole number, and nothing that could make one of a word comes before it."""
    marks = getattr(annotation, "__metadata__", ())
    of = get_args(annotation)[0] if marks else annotation
    return of is int and all(
        mark == PLAIN_INT
        or isinstance(mark, AfterValidator)
        or not hasattr(mark, "__get_pydantic_core_schema__")
        for mark in marks
    )
