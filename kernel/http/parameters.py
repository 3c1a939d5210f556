"""The parameters of operations and of their dependencies: lines are trimmed as an Input's are, and
whole numbers are read from text."""

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import cache, partial, update_wrapper
from inspect import Parameter, Signature, isclass, isfunction, ismethod
from typing import Annotated, Any, get_args, get_origin

from fastapi import params
from pydantic import AfterValidator, BaseModel, TypeAdapter

from kernel.data.trimming import Trims, Untrimmable
from kernel.fast.ids import signature_of
from kernel.fast.inputs import PLAIN_INT
from kernel.http.numbers import reading_numbers


def with_read_parameters(
    endpoint: Callable[..., Any], dependencies: Iterable[params.Depends] = ()
) -> Callable[..., Any]:
    """The endpoint with its own parameters read; those of its dependencies are, too.

    Raises:
        Untrimmable: a `Trimmed` text is where it cannot be trimmed.
    """
    read_dependencies(dependencies)
    signature = _read(signature_of(endpoint))
    if signature is None:
        return endpoint
    wrapped: Any = update_wrapper(partial(endpoint), endpoint)
    wrapped.__signature__ = signature
    return wrapped  # type: ignore[no-any-return]  # or it had no place for a signature


def read_dependencies(dependencies: Iterable[params.Depends]) -> None:
    """Read the parameters of dependencies, and of theirs.

    A dependency stays the same object, which FastAPI's cache and `dependency_overrides` know it by:
    only the signature that it shows is another one.
    """
    for depends in dependencies:
        if depends.dependency is not None:
            _read_dependency(depends.dependency)


def with_plain_ids(
    path: str, endpoint: Callable[..., Any], dependencies: Iterable[params.Depends]
) -> str:
    """The path, with the `id` convertor at its integer parameters, whether they are the endpoint's
    or a dependency's: `{item_id}` → `{item_id:id}`."""
    calls = [depends.dependency for depends in dependencies]
    for parameter in _parameters_of([*calls, endpoint]):
        if _is_plain_id(parameter.annotation):
            path = path.replace(f"{{{parameter.name}}}", f"{{{parameter.name}:id}}")
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


def _parameters_of(calls: Iterable[Callable[..., Any] | None]) -> Iterator[Parameter]:
    """What a client may send to the calls and to what they depend on, at any depth."""
    for call in filter(None, calls):
        for parameter in signature_of(call).parameters.values():
            if depends := _depends_of(parameter):
                yield from _parameters_of([depends.dependency])
            else:
                yield parameter


def _read_dependency(dependency: Callable[..., Any]) -> None:
    for function in _functions_of(dependency):
        _read_function(function)


@cache
def _read_function(function: Any) -> None:
    if signature := _read(signature_of(function)):
        function.__signature__ = signature


def _functions_of(dependency: Any) -> list[Any]:
    """What has the parameters of a dependency in its signature."""
    if ismethod(dependency):
        return [dependency.__func__]
    is_wrapper = hasattr(dependency, "__wrapped__")  # such as what `functools.cache` makes
    if isfunction(dependency) or isinstance(dependency, partial) or is_wrapper:
        return [dependency]
    if not isclass(dependency):
        return [call] if isfunction(call := type(dependency).__call__) else []
    if issubclass(dependency, BaseModel):
        return [dependency]
    return [make for make in (dependency.__new__, dependency.__init__) if isfunction(make)]


def _read(signature: Signature) -> Signature | None:
    """The signature with what reads its parameters, or None if nothing has to."""
    declared = [*signature.parameters.values()]
    parameters = [*map(_parameter, declared)]
    if all(new is old for new, old in zip(parameters, declared, strict=True)):
        return None
    return signature.replace(parameters=parameters)


def _parameter(parameter: Parameter) -> Parameter:
    if depends := _depends_of(parameter):
        read_dependencies([depends])
        return parameter
    annotation, source = _trimming(reading_numbers(parameter)), parameter.default
    if isinstance(source, params.Param | params.Body) and get_origin(annotation) is Annotated:
        # With `row: RowId = Query()`, FastAPI reads an `int`, without the rules of a `RowId`.
        known = {*map(id, source.metadata)}  # those of a dependency that is an endpoint, too
        if rules := [rule for rule in annotation.__metadata__ if id(rule) not in known]:
            source = copy(source)
            source.metadata = [*source.metadata, *rules]
    is_same = annotation is parameter.annotation and source is parameter.default
    return parameter if is_same else parameter.replace(annotation=annotation, default=source)


def _depends_of(parameter: Parameter) -> params.Depends | None:
    """The dependency whose result the parameter is; without a word, that is its own type."""
    annotation = parameter.annotation
    marks = (*getattr(annotation, "__metadata__", ()), parameter.default)
    for depends in reversed(marks):
        if isinstance(depends, params.Depends):
            is_marked = get_origin(annotation) is Annotated
            kind = get_args(annotation)[0] if is_marked else annotation
            is_said = depends.dependency is not None or not callable(kind)
            return depends if is_said else params.Depends(kind)
    return None


def _trimming(annotation: Any) -> Any:
    """The annotation of a parameter, with trimming added if there is a `Trimmed` text in it."""
    trims = Trims()
    typed: Any = Annotated[annotation, trims]
    try:
        TypeAdapter(typed)
    except Untrimmable:
        raise
    except Exception:  # noqa: BLE001  # not sent by a client, or FastAPI will refuse it
        return annotation
    return typed if trims.has_found else annotation
