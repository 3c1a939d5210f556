"""A write as a unit of work: committed before the response is sent, and retried as a whole."""

import asyncio
import random
from contextlib import AsyncExitStack

from fastapi import Request, Response
from sqlalchemy.orm.exc import StaleDataError

from kernel.context import PRINCIPAL, SESSION, RequestContext, current_context
from kernel.data.resources import resources_of
from kernel.data.retries import count_retry
from kernel.data.session import WriteSession
from kernel.data.sqlstate import (
    SLOW,
    is_disconnect,
    is_ours,
    is_retryable,
    is_suspect,
    is_too_slow,
    translate,
    unavailable,
)
from kernel.errors import BadRequest, OutcomeUnknown
from kernel.fast.plan import Handler
from kernel.http.attempts import Replay, fresh_dependencies, with_callbacks
from kernel.http.deadlines import set_timeout
from kernel.http.idempotency import (
    KeyedRequest,
    SentKey,
    claim,
    keep,
    may_be_repeated,
    of_caller,
    read_ahead,
)
from kernel.http.operation import Operation
from kernel.http.preconditions import Preconditions, tag_response
from kernel.http.rehearsals import NO_REHEARSAL, is_rehearsal, rehearse
from kernel.identity.callers import note_principal


class Write:
    """A write, from its first statement to its COMMIT, with retries from its start."""

    def __init__(self, handler: Handler, route: Operation, *, is_planned: bool) -> None:
        self._handler, self._route, self._is_planned = handler, route, is_planned

    async def run(self, request: Request) -> Response:
        # On the short way, a declared body is read already.
        is_read = self._is_planned and self._route.body_field is not None
        if self._route.timeout is not None:
            set_timeout(self._route.timeout)
        if self._route.holds_secret and is_rehearsal(request):
            raise BadRequest(NO_REHEARSAL)
        first, replay = request, Replay(request, is_read=is_read)
        try:
            sent = await read_ahead(self._route, request, replay, is_read=is_read)
            for attempt in range(self._route.retries + 1):
                if attempt:
                    # Nothing was committed, so the work can start over: on a fresh connection, or
                    # when the conflicting transaction has ended.
                    await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311  # jitter
                if attempt or not is_read:
                    request = await replay.request()
                try:
                    return await self._attempt(request, sent)
                except Exception as error:  # noqa: BLE001  # raised again, or worth another attempt
                    is_last = attempt == self._route.retries
                    self._raise_unless_retryable(error, request, is_last=is_last)
            raise AssertionError("unreachable")
        finally:
            # Error handlers get the first request, and may read its cached body.
            vars(first).update(vars(request))
            replay.close()

    def _raise_unless_retryable(self, error: Exception, request: Request, *, is_last: bool) -> None:
        if not is_ours(error):
            raise error
        if is_suspect(error):
            resources_of(request.app).writer.expire()
        if is_retryable(error) and not is_last:
            count_retry("write", error)
            return
        if answer := translate(error, self._route.input_names):
            raise answer from error
        raise error

    async def _attempt(self, request: Request, sent: SentKey | None) -> Response:
        session = WriteSession(resources_of(request.app).writer.unit_of_work(self._route.isolation))
        try:
            if self._is_planned:
                response = await self._work(request, session, sent, None)
            else:
                async with fresh_dependencies(request) as function_stack:
                    response = await self._work(request, session, sent, function_stack)
            return with_callbacks(response, session.unit.committed)
        finally:
            await session.end()

    async def _work(
        self,
        request: Request,
        session: WriteSession,
        sent: SentKey | None,
        function_stack: AsyncExitStack | None,
    ) -> Response:
        scope, keyed = request.scope, None
        scope[SESSION], scope[PRINCIPAL] = session, None
        if context := current_context():
            context.begin_attempt(session.unit)
        if sent and (principal := await note_principal(request)):
            keyed = of_caller(sent, request, principal)
            if replay := await claim(session, keyed):
                return replay
        precondition = Preconditions(request, session, self._route.path)
        try:
            response = await self._handler(request)
        except StaleDataError as error:
            precondition.judge(error)
            raise
        if function_stack:
            await function_stack.aclose()
        if response.status_code >= 400:
            await session.rollback()
            return response
        await precondition.check(session, response, self._route.row_place)
        response = tag_response(request, response, self._route.row_place)
        await self._conclude(request, session, response, keyed)
        return response

    async def _conclude(
        self,
        request: Request,
        session: WriteSession,
        response: Response,
        keyed: KeyedRequest | None,
    ) -> None:
        if is_rehearsal(request):
            await rehearse(session, response, is_repeatable=may_be_repeated(response, self._route))
            return
        if keyed:
            await keep(
                session, keyed, response, is_repeatable=may_be_repeated(response, self._route)
            )
        context = current_context() or RequestContext()
        try:
            await session.finish()
            context.may_be_done = not keyed
        except asyncio.CancelledError:
            context.may_be_done &= not keyed  # with a key, the next attempt finds out
            raise
        except OutcomeUnknown as error:
            cause = error.__cause__
            # With a key, the next attempt finds out: a retry here, or the client's.
            if keyed and isinstance(cause, Exception) and is_disconnect(cause):
                raise cause from None
            if keyed and cause and is_too_slow(cause):
                raise unavailable(SLOW) from cause
            raise
