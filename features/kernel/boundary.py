"""The request boundary: one unit of work for each write, committed before the answer leaves.

`Router` is a slice's `APIRouter`. Handlers flush; what they leave is committed here, once FastAPI
has made the response and before a byte of it is sent. Whatever raises, rolls back. (Committing in
a dependency, after its `yield`, happens when the client already has its 201.)
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute, RouteContext
from sqlalchemy import text
from sqlalchemy.orm.exc import StaleDataError
from starlette.types import ASGIApp

from features.kernel.bodies import Handler, with_checked_body
from features.kernel.context import current_context
from features.kernel.database import WriteSession
from features.kernel.errors import OutcomeUnknown, PreconditionFailed
from features.kernel.idempotency import claim, keep, read_key
from features.kernel.identity import find_principal
from features.kernel.openapi import declared_errors, document_headers, holds_secret, is_write
from features.kernel.plan import Plan
from features.kernel.preconditions import STALE, IfMatch, noting, tag_response
from features.kernel.routing import with_plain_ids
from features.kernel.sqlstate import is_disconnect, is_retryable, translate

ATTEMPTS = 3
DRY_RUN = "tx=rollback"


class BoundaryRoute(APIRoute):
    """A route whose writes are units of work, and which OpenAPI tells the whole truth about."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(with_plain_ids(path, endpoint), noting(endpoint), **options)
        self.responses = {**declared_errors(self), **self.responses}
        self.openapi_extra = {**document_headers(self), **(self.openapi_extra or {})}

    def get_route_handler(self) -> Handler:
        return self._within(super().get_route_handler())

    def plan(self, context: RouteContext) -> ASGIApp:
        """The short way through the operation as it is mounted.

        Raises:
            Unplanned: it needs all of FastAPI.
        """
        plan = Plan(context)
        return plan.app(self._within(plan.run))

    def _within(self, handler: Handler) -> Handler:
        if self.body_field is not None:
            handler = with_checked_body(handler, self.body_field.field_info)
        if is_write(self):
            return _UnitOfWork(handler, holds_secret(self)).run
        return _read(handler)


class Router(APIRouter):
    """A slice's router."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=BoundaryRoute, redirect_slashes=False, **options)


class _UnitOfWork:
    """A write, from its first statement to its COMMIT, and again from its start if need be."""

    def __init__(self, handler: Handler, secret: bool) -> None:
        self._handler = handler
        self._secret = secret

    async def run(self, request: Request) -> Response:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with WriteSession(request.app.state.writer) as session:
                    return await self._attempt(request, session)
            except Exception as error:
                if isinstance(error, StaleDataError) and b"if-match" in request.scope["sent"]:
                    raise PreconditionFailed(STALE) from error
                if is_disconnect(error):
                    request.app.state.writer.expire()
                answer = translate(error)
                # Nothing was committed and the body is kept, so the work can start over: on a
                # fresh connection, or when whoever was in the way has gone.
                again = attempt < ATTEMPTS and (is_retryable(error) or is_disconnect(error))
                if answer is None:
                    raise
                if not again:
                    raise answer from error
            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311  # jitter
        raise AssertionError("unreachable")

    async def _attempt(self, request: Request, session: WriteSession) -> Response:
        scope, keyed = request.scope, None
        scope["session"], scope["principal"] = session, None
        dry_run = DRY_RUN in _preferences(request)
        if b"idempotency-key" in scope["sent"] and not dry_run:
            scope["principal"] = await find_principal(request)
            keyed = await read_key(request, scope["principal"])
            if replay := await claim(session, keyed):
                return replay
        precondition = IfMatch(request, session)
        response = await self._handler(request)
        if response.status_code >= 400:
            return response
        precondition.check()
        response = tag_response(request, response)
        if keyed:
            await keep(session, keyed, response, secret=self._secret)
        if dry_run:
            await _rehearse(session, response)
        else:
            await _commit(session, repeatable=keyed is not None)
        return response


async def _commit(session: WriteSession, *, repeatable: bool) -> None:
    try:
        await session.commit()
    except Exception as error:
        # Nobody knows whether this COMMIT arrived. With a key, the next attempt will see.
        if is_disconnect(error) and not repeatable:
            raise OutcomeUnknown("the outcome is unknown; look before you try again") from error
        raise


async def _rehearse(session: WriteSession, response: Response) -> None:
    """Let everything be checked that COMMIT would check, then undo it (RFC 7240 §3)."""
    await session.flush()
    await (await session.connection()).execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    await session.rollback()
    response.background = None
    response.headers["Preference-Applied"] = DRY_RUN


def _preferences(request: Request) -> set[str]:
    if b"prefer" not in request.scope["sent"]:
        return set()
    given = ",".join(request.headers.getlist("prefer")).replace('"', "").lower()
    return {preference.partition(";")[0].replace(" ", "") for preference in given.split(",")}


def _read(handler: Handler) -> Handler:
    async def run(request: Request) -> Response:
        response = tag_response(request, await handler(request))
        if (context := current_context()) and context.link:
            response.raw_headers.append((b"link", context.link.encode()))
        return response

    return run
