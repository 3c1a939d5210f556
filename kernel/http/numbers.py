"""Lets parameters of the path, query, headers, cookies and forms, which are text, be integers. JSON
has numbers, so in a body the same types refuse text."""

from functools import reduce
from inspect import Parameter
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from fastapi import params
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kernel.data.filters import Filter
from kernel.data.values import NUMBER
from kernel.fast.inputs import COLLECTIONS, PLAIN_INT, names_of, without_name
from kernel.fast.request_parameters import ReadsNumbers, is_json, is_scalar, models_in


def reading_numbers(parameter: Parameter) -> Any:
    """The annotation of a parameter; if the parameter is text, its integers are read from that."""
    annotation = parameter.annotation
    metadata = (*getattr(annotation, "__metadata__", ()), parameter.default)
    sources = [item for item in metadata if isinstance(item, params.Param | params.Body)]
    is_text = all(isinstance(source, params.Param | params.Form) for source in sources)
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if sources and is_text and (names := _names(kind)):
        return Annotated[annotation, ReadsNumbers(names)]
    read = _read(annotation)
    if read is annotation or not is_text:
        return annotation
    # Without `Query()` or the like, FastAPI reads a parameter from the body unless it is scalar.
    return read if sources or is_scalar(FieldInfo.from_annotation(kind)) else annotation


def _read(annotation: Any) -> Any:
    """The type with integers that read text; the type itself if it has no integers."""
    if (unnamed := without_name(annotation)) is not annotation:
        return annotation if (read := _read(unnamed)) is unnamed else read
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _read_annotated(annotation, *parts)
    if origin not in {Union, UnionType, *COLLECTIONS}:
        return annotation
    reads = [_read(part) for part in parts]
    if all(new is old for new, old in zip(reads, parts, strict=True)):
        return annotation
    return origin[tuple(reads)] if origin in COLLECTIONS else reduce(or_, reads)


def _read_annotated(annotation: Any, inner: Any, *metadata: Any) -> Any:
    if is_json(metadata):
        return annotation
    new, read = [PLAIN_INT if item == NUMBER else item for item in metadata], _read(inner)
    if read is inner and new == [*metadata]:
        return annotation
    # The parameter's own bounds come first, which those of its type narrow, and all of them before
    # the check of the text, or OpenAPI would not show them.
    new.sort(key=lambda item: not isinstance(item, FieldInfo))
    return Annotated[(read, *new)]


def _names(annotation: Any) -> frozenset[str]:
    """The names under which a request may send the integers of a model of parameters."""
    models = [model for model in models_in(annotation) if not issubclass(model, Filter)]
    return frozenset().union(*[_numbers_of(model) for model in models])


def _numbers_of(model: type[BaseModel]) -> frozenset[str]:
    return frozenset().union(
        *[
            names_of(model, name, field)
            for name, field in model.model_fields.items()
            if not is_json(field.metadata)
            and (NUMBER in field.metadata or _read(field.annotation) is not field.annotation)
        ]
    )
