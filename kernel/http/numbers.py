"""Whole numbers in what is text all the same: parameters of the path, the query, headers, cookies
and forms. JSON has numbers, so in a body these types take no text."""

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
from kernel.fast.ids import PLAIN_INT, without_name
from kernel.fast.request_parameters import ReadsNumbers, is_scalar, models_in, names_of

SEVERAL = {list, set, frozenset, tuple}


def reading_numbers(parameter: Parameter) -> Any:
    """The annotation of an operation's parameter, whose numbers are texts if the parameter is."""
    annotation = parameter.annotation
    marks = (*getattr(annotation, "__metadata__", ()), parameter.default)
    told = [mark for mark in marks if isinstance(mark, params.Param | params.Body)]
    is_text = all(isinstance(mark, params.Param | params.Form) for mark in told)
    of = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if told and is_text and (names := _names(of)):
        return Annotated[annotation, ReadsNumbers(names)]
    read = _read(annotation)
    # Without a word, FastAPI takes what is no scalar from the body.
    if read is annotation or not (is_text and (told or is_scalar(FieldInfo.from_annotation(of)))):
        return annotation
    return read


def _read(annotation: Any) -> Any:
    """The type, whose whole numbers are texts; or the type itself, if it has none."""
    if (unnamed := without_name(annotation)) is not annotation:
        return annotation if (read := _read(unnamed)) is unnamed else read
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *marks = parts
        new = [PLAIN_INT if mark == NUMBER else mark for mark in marks]
        read = _read(inner)
        if read is inner and new == marks:
            return annotation
        # The parameter's own bounds first, which those of its type narrow, and all before the check
        # of the text, or OpenAPI would not show them.
        new.sort(key=lambda mark: not isinstance(mark, FieldInfo))
        return Annotated[(read, *new)]
    if origin not in {Union, UnionType, *SEVERAL}:
        return annotation
    reads = [_read(part) for part in parts]
    if all(new is old for new, old in zip(reads, parts, strict=True)):
        return annotation
    return origin[tuple(reads)] if origin in SEVERAL else reduce(or_, reads)


def _names(annotation: Any) -> frozenset[str]:
    """What a request may call the whole numbers of a model of parameters."""
    models = [model for model in models_in(annotation) if not issubclass(model, Filter)]
    return frozenset().union(*[_numbers_of(model) for model in models])


def _numbers_of(model: type[BaseModel]) -> frozenset[str]:
    return frozenset().union(
        *[
            names_of(name, field)
            for name, field in model.model_fields.items()
            if NUMBER in field.metadata or _read(field.annotation) is not field.annotation
        ]
    )
