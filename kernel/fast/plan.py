"""The short way through an operation.

FastAPI reads an endpoint's signature once, but works out anew for each request what it found there:
for a list's page, that takes longer than the queries. A plan runs the common case: coroutines, and
parameters that are plain values. What it cannot run is FastAPI's own, and so is an invalid request.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.exceptions import ResponseValidationError
from fastapi.routing import RouteContext
from pydantic import TypeAdapter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.context import ARGUMENTS
from kernel.fast.planning import Parameter, steps_of, validator_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Plan:
    """An operation as it is mounted, which `otherwise` FastAPI runs.

    Raises:
        Unplanned: it asks for more than a plan can give.
    """

    def __init__(self, context: RouteContext) -> None:
        self._steps = steps_of(context)
        self._body = context.body_field
        self._validate_body = validator_of(self._body.field_info) if self._body else None
        self._answer, self._status = context.response_field, context.status_code or 200
        self._model = context.response_model
        self._to_json = TypeAdapter(self._model).serializer.to_json
        self._otherwise: ASGIApp = context.app

    def app(self, handler: Handler) -> ASGIApp:
        """The operation as an ASGI app; `handler` is `run` with the boundary around it."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            if await self._take(request):
                response = await handler(request)
                await response(scope, receive, send)
            else:
                await self._otherwise(scope, await _again(request, receive), send)

        return app

    async def run(self, request: Request) -> Response:
        """Call the dependencies and the endpoint with what was found in the request."""
        results: list[Any] = []
        if ARGUMENTS not in request.scope:  # a further attempt has values of its own
            await self._take(request)
        arguments = request.scope.pop(ARGUMENTS)
        for step, values in zip(self._steps, arguments, strict=True):
            for name, place in step.parts:
                if name:
                    values[name] = results[place]
            for name in step.request_names:
                values[name] = request
            results.append(await step.call(**values))
        return self._respond(results[-1])

    def _respond(self, result: Any) -> Response:
        if isinstance(result, Response):
            return result
        if self._answer is None:
            return Response(status_code=self._status)
        if type(result) is not self._model:
            result, mistakes = self._answer.validate(result, loc=("response",))
            if mistakes:
                raise ResponseValidationError(mistakes)
        content = self._to_json(result, by_alias=True)
        return Response(content, self._status, media_type="application/json")

    async def _take(self, request: Request) -> bool:
        """Find the values of all parameters; nothing is called before all are found valid."""
        if request.app.dependency_overrides:
            return False
        path = request.path_params
        # As Starlette reads it: what is given twice is the last.
        text = request.scope["query_string"].decode("latin-1")
        query = dict(parse_qsl(text, True)) if text else {}
        try:
            taken = [
                {
                    each.name: _value(each, path if each.in_path else query)
                    for each in step.parameters
                }
                for step in self._steps
            ]
            if self._validate_body:
                taken[-1][self._body.name] = self._validate_body(await request.json())
        except (ValueError, RecursionError):
            return False
        request.scope[ARGUMENTS] = taken
        return True


def _value(parameter: Parameter, given: Mapping[str, Any]) -> Any:
    text = given.get(parameter.alias)
    if text is None and not parameter.is_required:
        return parameter.default
    return parameter.validate(text)


async def _again(request: Request, receive: Receive) -> Receive:
    """What gives the request's body once more."""
    body: Message | None = {"type": "http.request", "body": await request.body()}

    async def again() -> Message:
        nonlocal body
        message, body = body, None
        return message or await receive()

    return again
