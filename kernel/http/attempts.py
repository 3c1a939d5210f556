"""Another attempt at a request: it begins with the same body, scope and dependencies."""

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
# Keys of FastAPI's exit stacks in the scope: what dependencies have opened until the handler ends,
# and until the response is sent.
FUNCTION_STACK, REQUEST_STACK = "fastapi_function_astack", "fastapi_inner_astack"


class Replay:
    """Makes a request anew for each attempt: with its whole body, and without what an earlier one
    has parsed, changed or cached. A body that is not read yet is buffered as it comes in, beyond
    `IN_MEMORY_BYTES` in a temporary file."""

    def __init__(self, request: Request, *, is_read: bool) -> None:
        self._request, self._is_read = request, is_read
        self._scope, self._state = dict(request.scope), dict(request.scope.get("state", {}))
        self._kept: SpooledTemporaryFile[bytes] | None = None  # made for the first bytes
        self._size = 0
        self._is_whole = False

    async def request(self) -> Request:
        """The request from its beginning."""
        scope, state = self._request.scope, self._request.scope.get("state")
        kind = type(self._request)  # a route class may have a Request of its own
        scope.clear()
        scope.update(self._scope)
        if state and "state" in scope:
            state.clear()
            state.update(self._state)
        if self._is_read:
            body = await self._request.body()
            return kind(scope, _receive_once(body, self._request.receive))
        return kind(scope, self._receive_from_start())

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def _receive_from_start(self) -> Receive:
        position, has_ended = 0, False

        async def receive() -> Message:
            nonlocal position, has_ended
            if has_ended:
                return await self._request.receive()  # http.disconnect, when it comes
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
        first, message = message, None
        return first or await receive()

    return receive_body


@asynccontextmanager
async def fresh_dependencies(request: Request) -> AsyncIterator[AsyncExitStack]:
    """Closes what dependencies with `yield` have opened: with the attempt if that fails, or else
    when the response is sent. The block gets the stack of those that are closed with the handler.

    Raises:
        FastAPIError: a dependency has swallowed an exception instead of raising it again.
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
        raise FastAPIError("a dependency with yield has swallowed an exception: raise it again")


def with_callbacks(response: Response, callbacks: list[Callback]) -> Response:
    """The response; the callbacks of `after_commit` run once it is sent, as background tasks."""
    if callbacks:
        tasks = BackgroundTasks()
        tasks.add_task(run_callbacks, callbacks)
        if response.background:
            tasks.add_task(response.background)
        response.background = tasks
    return response
