"""Ids in paths, and the signatures of endpoints."""

from collections.abc import Callable
from inspect import Signature, signature, unwrap
from typing import Any

from starlette.convertors import Convertor, register_url_convertor
from typing_inspection.typing_objects import is_typealiastype

from kernel.fast.inputs import without_name


class IdConvertor(Convertor[str]):
    """Matches a path segment that is not a plain word, so `/users/me` is not `/users/{user_id}`."""

    regex = "(?![a-z]+(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return str(value)


register_url_convertor("id", IdConvertor())


def signature_of(endpoint: Callable[..., Any]) -> Signature:
    """The endpoint's signature, with its annotations evaluated if they can be, and with the
    types that `type` statements name (PEP 695) in the place of the names."""
    try:
        declared = signature(endpoint, eval_str=True)
    except NameError:  # a name imported for type checkers only; FastAPI needs none of these
        declared = _evaluated(signature(endpoint), getattr(unwrap(endpoint), "__globals__", {}))
    parameters = [*declared.parameters.values()]
    if not any(is_typealiastype(parameter.annotation) for parameter in parameters):
        return declared
    unnamed = [
        parameter.replace(annotation=without_name(parameter.annotation)) for parameter in parameters
    ]
    return declared.replace(parameters=unnamed)


def _evaluated(declared: Signature, names: dict[str, Any]) -> Signature:
    """The signature with those annotations evaluated that can be."""
    parameters = [
        parameter.replace(annotation=_value(parameter.annotation, names))
        for parameter in declared.parameters.values()
    ]
    return declared.replace(parameters=parameters)


def _value(annotation: Any, names: dict[str, Any]) -> Any:
    try:
        return eval(annotation, names) if isinstance(annotation, str) else annotation  # noqa: S307  # it is code
    except NameError:
        return annotation
