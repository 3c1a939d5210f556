"""What a body has to be before it is parsed: of the right media type, and UTF-8."""

import json

from fastapi import Form, Request, Response
from pydantic.fields import FieldInfo

from kernel.errors import BadRequest, UnsupportedMediaType
from kernel.fast.plan import Handler

JSON = "application/json"
FORM = type(Form())
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def with_checked_body(handler: Handler, field: FieldInfo) -> Handler:
    """The handler behind a check of the body that `field` declares.

    It raises UnsupportedMediaType, for a compressed body as well, or BadRequest for another
    encoding than UTF-8.
    """
    accepted = FORMS if isinstance(field, FORM) else (JSON,)

    async def run(request: Request) -> Response:
        headers = request.headers
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        if has_body and headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("the body should not be compressed")  # RFC 9110 §15.5.16
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if has_body and media_type not in accepted:
            raise UnsupportedMediaType(f"the body should be {' or '.join(accepted)}")
        # Python's parser also reads UTF-16, UTF-32 and a byte order mark; RFC 8259 §8.1 has none.
        if media_type == JSON and json.detect_encoding(await request.body()) != "utf-8":
            raise BadRequest("the body should be UTF-8")
        return await handler(request)

    return run
