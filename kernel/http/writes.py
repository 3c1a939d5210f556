"""A write as a unit of work: committed before the answer leaves, and tried again from its start."""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Protocol

from fastapi import BackgroundTasks, Request, Response
from sqlalchemy import text
from sqlalchemy.orm.exc import StaleDataError

from kernel.context import HEADER_NAMES, PRINCIPAL, SESSION, current_context
from kernel.data.driver import Isolation
from kernel.data.independent import run_callbacks
from kernel.data.resources import resources_of
from kernel.data.session import WriteSession
from kernel.data.sqlstate import (
    SLOW,
    is_disconnect,
    is_ours,
    is_outdated,
    is_retryable,
    is_too_slow,
    translate,
    unavailable,
)
from kernel.data.unit_of_work import Callback
from kernel.errors import OutcomeUnknown
from kernel.fast.plan import Handler
from kernel.http.attempts import Replay, fresh_dependencies
from kernel.http.idempotency import KeyedRequest, claim, keep, read_key
from kernel.http.preconditions import IfMatch, Place, tag_response
from kernel.identity.callers import find_principal

DRY_RUN = "tx=rollback"


class Operation(Protocol):
    """What a write has to know of its route."""

    path: str
    isolation: Isolation | None
    retries: int

    @property
    def row_place(self) -> Place | None: ...

    @property
    def body_field(self) -> object: ...

    @property
    def input_names(self) -> frozenset[str]: ...

    @property
    def holds_secret(self) -> bool: ...


class Write:
    """A write, from its first statement to its COMMIT, and again from its start if need be."""

    def __init__(self, handler: Handler, route: Operation, *, is_planned: bool) -> None:
        self._handler, self._route, self._is_planned = handler, route, is_planned

    async def run(self, request: Request) -> Response:
        # A plan has read what its operation declares.
        is_read = self._is_planned and self._route.body_field is not None
        first, replay = request, Replay(request, is_read=is_read)
        try:
            for attempt in range(self._route.retries + 1):
                if attempt:
                    # Nothing was committed, so the work can start over: on a fresh connection, or
                    # when whoever was in the way has gone.
                    await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311  # jitter
                if attempt or not is_read:
                    request = await replay.request()
                try:
                    return await self._attempt(request)
                except Exception as error:  # noqa: BLE001  # raised again, or worth another attempt
                    is_last = attempt == self._route.retries
                    self._raise_unless_retryable(error, request, is_last=is_last)
            raise AssertionError("unreachable")
        finally:
            # Handlers of errors are given the first, and may ask for what was read of it.
            vars(first).update(vars(request))
            replay.close()

    def _raise_unless_retryable(self, error: Exception, request: Request, *, is_last: bool) -> None:
        if not is_ours(error):
            raise error
        if is_disconnect(error) or is_outdated(error):
            resources_of(request.app).writer.expire()
        if is_retryable(error) and not is_last:
            return
        if answer := translate(error, self._route.input_names):
            raise answer from error
        raise error

    async def _attempt(self, request: Request) -> Response:
        session = WriteSession(resources_of(request.app).writer.unit_of_work(self._route.isolation))
        try:
            if self._is_planned:
                response = await self._work(request, session, None)
            else:
                async with fresh_dependencies(request) as of_handler:
                    response = await self._work(request, session, of_handler)
            return _with_callbacks(response, session.unit.committed)
        finally:
            await session.end()

    async def _work(
        self, request: Request, session: WriteSession, of_handler: AsyncExitStack | None
    ) -> Response:
        scope, keyed = request.scope, None
        scope[SESSION], scope[PRINCIPAL] = session, None
        if context := current_context():
            context.begin_attempt(session.unit)
        dry_run = DRY_RUN in _preferences(request)
        if b"idempotency-key" in scope[HEADER_NAMES] and not dry_run:
            scope[PRINCIPAL] = await find_principal(request)
            keyed = await read_key(request, scope[PRINCIPAL])
            if replay := await claim(session, keyed):
                return replay
        precondition = IfMatch(request, session, self._route.path)
        try:
            response = await self._handler(request)
        except StaleDataError as error:
            precondition.judge(error)
            raise
        if of_handler:
            await of_handler.aclose()
        if response.status_code >= 400:
            await session.rollback()
            return response
        await precondition.check(session, response, self._route.row_place)
        response = tag_response(request, response, self._route.row_place)
        await self._conclude(session, response, keyed, is_dry_run=dry_run)
        return response

    async def _conclude(
        self,
        session: WriteSession,
        response: Response,
        keyed: KeyedRequest | None,
        *,
        is_dry_run: bool,
    ) -> None:
        if is_dry_run:
            await _rehearse(session, response)
            return
        if keyed:
            await keep(session, keyed, response, secret=self._route.holds_secret)
        try:
            await session.finish()
        except OutcomeUnknown as error:
            cause = error.__cause__
            # With a key, the next attempt will see: this one, or the client's.
            if keyed and isinstance(cause, Exception) and is_disconnect(cause):
                raise cause from None
            if keyed and cause and is_too_slow(cause):
                raise unavailable(SLOW) from cause
            raise


def _with_callbacks(response: Response, callbacks: list[Callback]) -> Response:
    """The response, and behind it what is to be called after the commit."""
    if callbacks:
        tasks = BackgroundTasks()
        tasks.add_task(run_callbacks, callbacks)
        if response.background:
            tasks.add_task(response.background)
        response.background = tasks
    return response


async def _rehearse(session: WriteSession, response: Response) -> None:
    """Let everything be checked that COMMIT would check, then undo it (RFC 7240 §3)."""
    await session.flush()
    await (await session.connection()).execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    await session.rollback()
    response.background = None
    response.headers["Preference-Applied"] = DRY_RUN


def _preferences(request: Request) -> set[str]:
    if b"prefer" not in request.scope[HEADER_NAMES]:
        return set()
    given = ",".join(request.headers.getlist("prefer")).replace('"', "").lower()
    return {preference.partition(";")[0].replace(" ", "") for preference in given.split(",")}
