"""The checks of a body before it is parsed."""

import json
from fnmatch import fnmatchcase

from fastapi import Form, Request, Response
from pydantic.fields import FieldInfo

from kernel.errors import BadRequest, UnsupportedMediaType
from kernel.fast.plan import Handler

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
