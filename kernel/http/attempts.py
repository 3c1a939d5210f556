"""What a further attempt at a request begins with: what the first one began with."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import SpooledTemporaryFile

from fastapi import BackgroundTasks, Request, Response
from fastapi.exceptions import FastAPIError
from starlette.types import Message, Receive

from kernel.data.independent import run_callbacks
from kernel.data.unit_of_work import Callback

IN_MEMORY_BYTES = 1024 * 1024
CHUNK_BYTES = 64 * 1024
# Where FastAPI keeps what dependencies have opened until the handler is through, and until the
# answer is sent.
FUNCTION_STACK, REQUEST_STACK = "fastapi_function_astack", "fastapi_inner_astack"


class Replay:
    """A request that can be had anew, as often as is asked for: with its whole body, and without
    what was parsed, changed or remembered. A body that is not read yet is kept as it comes in, in a
    file if it does not fit into memory."""

    def __init__(self, request: Request, *, is_read: bool) -> None:
        self._request, self._is_read = request, is_read
        self._scope, self._state = dict(request.scope), dict(request.scope.get("state", {}))
        self._kept: SpooledTemporaryFile[bytes] | None = None  # made for the first bytes
        self._size = 0
        self._is_whole = False

    async def request(self) -> Request:
        """The request from its beginning."""
        scope, state = self._request.scope, self._request.scope.get("state")
        of = type(self._request)  # a route class may have one of its own
        scope.clear()
        scope.update(self._scope)
        if state and "state" in scope:
            state.clear()
            state.update(self._state)
        if self._is_read:
            body = await self._request.body()
            return of(scope, _receive_once(body, self._request.receive))
        return of(scope, self._receive_from_start())

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def _receive_from_start(self) -> Receive:
        position, has_ended = 0, False

        async def receive() -> Message:
            nonlocal position, has_ended
            if has_ended:
                return await self._request.receive()  # the client's end, when it comes
            if position == self._size and not self._is_whole:
                message = await self._request.receive()
                if message["type"] != "http.request":
                    return message
                body = message.get("body", b"")
                self._keep(body)
                self._is_whole = not message.get("more_body", False)
            else:
                body = self._read(position)
            position += len(body)
            has_ended = self._is_whole and position == self._size
            return {"type": "http.request", "body": body, "more_body": not has_ended}

        return receive

    def _keep(self, body: bytes) -> None:
        if not body:
            return
        if self._kept is None:
            self._kept = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115  # see close()
        self._kept.seek(self._size)
        self._size += self._kept.write(body)

    def _read(self, position: int) -> bytes:
        if self._kept is None:
            return b""
        self._kept.seek(position)
        return self._kept.read(CHUNK_BYTES)


def _receive_once(body: bytes, receive: Receive) -> Receive:
    message: Message | None = {"type": "http.request", "body": body}

    async def receive_body() -> Message:
        nonlocal message
        given, message = message, None
        return given or await receive()

    return receive_body


@asynccontextmanager
async def fresh_dependencies(request: Request) -> AsyncIterator[AsyncExitStack]:
    """What dependencies with `yield` open in this attempt: closed with it if it fails, or else when
    the answer is sent. The block is given the stack of those that end with the handler.

    Raises:
        FastAPIError: a dependency has swallowed an exception, which it has to raise again.
    """
    scope = request.scope
    outer: AsyncExitStack = scope[REQUEST_STACK]
    has_succeeded = False
    try:
        async with AsyncExitStack() as request_stack, AsyncExitStack() as function_stack:
            scope[REQUEST_STACK], scope[FUNCTION_STACK] = request_stack, function_stack
            yield function_stack
            has_succeeded = True
            await outer.enter_async_context(request_stack.pop_all())
    finally:
        scope[REQUEST_STACK] = outer
    if not has_succeeded:
        raise FastAPIError("a dependency with yield has swallowed an exception")


def with_callbacks(response: Response, callbacks: list[Callback]) -> Response:
    """The response, and behind it what is to be called after the commit."""
    if callbacks:
        tasks = BackgroundTasks()
        tasks.add_task(run_callbacks, callbacks)
        if response.background:
            tasks.add_task(response.background)
        response.background = tasks
    return response
