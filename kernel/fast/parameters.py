"""The parameters of a compiled statement, and the values for them."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy.exc import InvalidRequestError

REQUIRED = object()


def parameters_of(compiled: Any) -> dict[str, Any]:
    """The parameters in order, each with the value that the statement has for it, or REQUIRED."""
    values = compiled.params
    return {
        name: REQUIRED if _is_missing(compiled, name) else values[name]
        for name in compiled.positiontup or ()
    }


def _is_missing(compiled: Any, name: str) -> bool:
    """Whether neither the parameter nor the statement's `params(…)` has a value for it."""
    if not compiled.binds[name].required:
        return False
    try:
        compiled.construct_params(dict.fromkeys(compiled.binds.keys() - {name}))
    except InvalidRequestError:
        return True
    return False


def bind_values(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> list[Any]:
    """The values of a statement's parameters, in order.

    Raises:
        TypeError: one is missing, or the statement has no such parameter.
    """
    if not values.keys() <= parameters.keys():
        check_names(values, parameters)
    arguments = [values.get(name, default) for name, default in parameters.items()]
    if any(argument is REQUIRED for argument in arguments):
        missing = [name for name in parameters if values.get(name, parameters[name]) is REQUIRED]
        raise TypeError(f"no value for the statement's parameter {', '.join(missing)}")
    return arguments


def check_names(names: Iterable[str], parameters: Collection[str]) -> None:
    """Raise TypeError if one of the names is not a parameter."""
    if unknown := ", ".join(name for name in names if name not in parameters):
        expected = ", ".join(parameters) or "none"
        raise TypeError(f"the statement has no parameter {unknown}; it has: {expected}")
