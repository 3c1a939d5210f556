"""`ETag`, `If-Match` and `If-None-Match` for the one row that a request is about (RFC 9110 §13).

A row's entity tag is its version. A precondition is judged after the handler, as §13.2.1 wants it:
a request that fails anyway fails for its own reason, and a stranger learns nothing from a 412.
"""

import re
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request, Response
from sqlalchemy import event
from sqlmodel.ext.asyncio.session import AsyncSession

from kernel.context import HEADER_NAMES, current_context
from kernel.data.models import Public, Table
from kernel.errors import PreconditionFailed

TAG = re.compile(r'(?P<weak>W/)?(?P<tag>"[!#-~\x80-\xff]*")')
STALE = "the row has changed since it was read"


def _note_answer(result: object) -> None:
    if (context := current_context()) and isinstance(result, Public):
        context.row_id, context.version = result.id, result.version


def noting(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint, which also remembers what version of which row its answer is about."""
    if not iscoroutinefunction(endpoint):
        return endpoint  # a stream of events, say, is about no one row

    @wraps(endpoint)
    async def run(*args: Any, **kwargs: Any) -> Any:
        result = await endpoint(*args, **kwargs)
        _note_answer(result)
        return result

    return run


def tag_response(request: Request, response: Response) -> Response:
    """The response with its ETag, or 304 when a GET's client has it already."""
    context = current_context()
    if context is None or context.version is None:
        return response
    tag = f'"{context.version}"'
    response.raw_headers.append((b"etag", tag.encode()))
    if request.method != "GET" or b"if-none-match" not in request.scope[HEADER_NAMES]:
        return response
    is_known = _matches(request.headers["if-none-match"], tag, weakly=True)
    return Response(status_code=304, headers={"ETag": tag}) if is_known else response


class IfMatch:
    """The request's If-Match, and the versions that rows had before the request changed them."""

    def __init__(self, request: Request, session: AsyncSession) -> None:
        asked = request.method != "POST" and b"if-match" in request.scope[HEADER_NAMES]
        self._tags = request.headers["if-match"] if asked else None
        self._path_params = request.path_params
        self._before: dict[tuple[type, int], int] = {}
        if self._tags is not None:
            event.listen(session.sync_session, "before_flush", self._note)

    def _note(self, session: Any, *_: Any) -> None:
        for row in (*session.dirty, *session.deleted):
            if isinstance(row, Table):
                self._before.setdefault((type(row), row.id), row.version)

    def check(self) -> None:
        """Judge the precondition, once the handler is through.

        Raises:
            PreconditionFailed: none of the tags is the row's, or nobody can tell.
        """
        if self._tags is None:
            return
        context = current_context()
        answered = (context.row_id, context.version) if context else (None, None)
        named = {str(answered[0]), *list(self._path_params.values())[-1:]}
        about = [version for (_, id_), version in self._before.items() if str(id_) in named]
        # Nothing was changed: then the answer shows the version that is there.
        unchanged = [version for version in answered[1:] if version is not None]
        versions = about or list(self._before.values()) or unchanged
        if not versions or not all(_matches(self._tags, f'"{each}"') for each in versions):
            raise PreconditionFailed(STALE)


def _matches(header: str, tag: str, *, weakly: bool = False) -> bool:
    """RFC 9110 §8.8.3.2: the strong comparison, which no weak tag passes, or the weak one."""
    if header.strip() == "*":
        return True
    return any(
        found["tag"] == tag and (weakly or not found["weak"]) for found in TAG.finditer(header)
    )
