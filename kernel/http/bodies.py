"""The checks of a body before it is parsed, and the trimming of an endpoint's parameters."""

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial, update_wrapper
from typing import Annotated, Any

from fastapi import Form, Request, Response
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from kernel.data.trimming import Trims, Untrimmable
from kernel.errors import BadRequest, UnsupportedMediaType
from kernel.fast.ids import signature_of
from kernel.fast.plan import Handler
from kernel.http.numbers import reading_numbers

JSON = "application/json"
FORM = type(Form())
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def with_checked_body(handler: Handler, field: FieldInfo) -> Handler:
    """The handler, after a check of the body that `field` declares.

    The check raises UnsupportedMediaType for another media type and for a compressed body, and
    BadRequest for JSON in another encoding than UTF-8.
    """
    declared: str = getattr(field, "media_type", JSON)
    accepted = FORMS if isinstance(field, FORM) else (declared.partition(";")[0].strip().lower(),)

    async def run(request: Request) -> Response:
        headers = request.headers
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        is_plain = type(request) is Request  # a route class may have one that decodes by itself
        is_coded = headers.get("content-encoding", "identity").lower() != "identity"
        if is_plain and has_body and is_coded:
            raise UnsupportedMediaType("the body should not be compressed")  # RFC 9110 §15.5.16
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if has_body and not any(fnmatchcase(media_type, pattern) for pattern in accepted):
            raise UnsupportedMediaType(f"the body should be {' or '.join(accepted)}")
        # Python's parser also reads UTF-16, UTF-32 and a byte order mark; RFC 8259 §8.1 has none.
        is_json = is_plain and (media_type == JSON or media_type.endswith("+json"))
        if is_json and json.detect_encoding(await request.body()) != "utf-8":
            raise BadRequest("the body should be UTF-8")
        return await handler(request)

    return run


def with_read_parameters(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint, whose own parameters are trimmed where they are lines, as an Input's are, and
    take text where they are whole numbers."""
    signature = signature_of(endpoint)
    declared = signature.parameters.values()
    parameters = [one.replace(annotation=_trimming(reading_numbers(one))) for one in declared]
    if parameters == [*declared]:
        return endpoint
    wrapped: Any = update_wrapper(partial(endpoint), endpoint)
    wrapped.__signature__ = signature.replace(parameters=parameters)
    return wrapped  # type: ignore[no-any-return]  # or it had no place for a signature


def _trimming(annotation: Any) -> Any:
    """The annotation of a parameter, with trimming added if there is a `Trimmed` text in it.

    Raises:
        Untrimmable: a `Trimmed` text is where it cannot be trimmed.
    """
    trims = Trims()
    typed: Any = Annotated[annotation, trims]
    try:
        TypeAdapter(typed)
    except Untrimmable:
        raise
    except Exception:  # noqa: BLE001  # not sent by a client, or FastAPI will refuse it
        return annotation
    return typed if trims.has_found else annotation
