"""The request boundary: one unit of work for each write, committed before the answer leaves.

`Router` is a slice's `APIRouter`. Handlers flush; what they leave is committed here, once FastAPI
has made the response and before a byte of it is sent. Whatever raises, rolls back. (Committing in
a dependency, after its `yield`, happens when the client already has its 201.)
"""

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response, params
from fastapi.routing import APIRoute

from features.kernel.errors import BadRequest, Unavailable, UnsupportedMediaType
from features.kernel.openapi import declared_errors, is_write
from features.kernel.sqlstate import is_disconnect, is_retryable, translate

ATTEMPTS = 3
JSON = "application/json"
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class BoundaryRoute(APIRoute):
    """A route whose writes are units of work, and whose errors are declared in OpenAPI."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.responses = {**declared_errors(self), **self.responses}

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        if self.body_field is not None:
            is_form = isinstance(self.body_field.field_info, params.Form)
            handler = _with_checked_body(handler, FORMS if is_form else (JSON,))
        return _unit_of_work(handler) if is_write(self) else handler


class Router(APIRouter):
    """A slice's router."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=BoundaryRoute, redirect_slashes=False, **options)


def _unit_of_work(handler: Handler) -> Handler:
    async def run(request: Request) -> Response:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await _transaction(handler, request)
            except Exception as error:
                answer = translate(error)
                if answer is None:
                    raise
                # Nothing was committed and the body is kept, so the work can start over: on a
                # fresh connection, or when whoever was in the way has gone.
                again = is_retryable(error) or is_disconnect(error)
                if not again or attempt == ATTEMPTS:
                    raise answer from error
            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311  # jitter
        raise AssertionError("unreachable")

    return run


async def _transaction(handler: Handler, request: Request) -> Response:
    async with request.app.state.sessions() as session:
        request.state.session = session
        response = await handler(request)
        try:
            await session.commit()
        except Exception as error:
            if is_disconnect(error):
                # Nobody knows whether this COMMIT arrived; repeating it could do the work twice.
                raise Unavailable("the outcome is unknown; look before you try again") from error
            raise
    return response


def _with_checked_body(handler: Handler, accepted: tuple[str, ...]) -> Handler:
    async def run(request: Request) -> Response:
        headers = request.headers
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if has_body and media_type not in accepted:
            raise UnsupportedMediaType(f"the body should be {' or '.join(accepted)}")
        # Python's parser also reads UTF-16, UTF-32 and a byte order mark; RFC 8259 §8.1 has none.
        if media_type == JSON and json.detect_encoding(await request.body()) != "utf-8":
            raise BadRequest("the body should be UTF-8")
        return await handler(request)

    return run
