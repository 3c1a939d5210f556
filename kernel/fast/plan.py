"""The short way (fast path) through an operation: a plan that is made once and run per request.

FastAPI reads an endpoint's signature once, but walks over what it found there for each request: for
a page of a list, that takes longer than the queries. A plan runs the common case in FastAPI's
order: a dependency is called after those that it depends on, if its parameters are valid. FastAPI
runs every operation for which no plan can be made.
"""

from collections.abc import Callable, Coroutine
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import EndpointContext, RequestValidationError, ResponseValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import RouteContext, _extract_endpoint_context
from fastapi.telemetry import TelemetryData, get_telemetry_data
from fastapi.telemetry._api import _validation_failed
from pydantic import ValidationError
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.fast.planning import steps_of
from kernel.fast.request_parameters import Sources

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Plan:
    """The plan of an operation as it is mounted; `_fallback` is FastAPI's own app for it.

    Raises:
        NeedsFastAPI: the operation uses what a plan does not support.
    """

    def __init__(self, context: RouteContext) -> None:
        self._steps = steps_of(context)
        self._fallback: ASGIApp = context.app
        self._path, self._body = context.path_format, context.body_field
        self._overrides = context.dependency_overrides_provider
        self._response_field = context.response_field
        self._status = context.status_code or 200
        if self._response_field:
            adapter = self._response_field._type_adapter
            self._validate = adapter.validator.validate_python
            self._to_json = adapter.serializer.to_json

    def app(self, handler: Handler) -> ASGIApp:
        """The operation as an ASGI app; `handler` is `run` with the boundary around it."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            response: ASGIApp = self._fallback
            is_overridden = self._overrides and self._overrides.dependency_overrides
            if is_overridden or (self._body and not _is_json(request)):
                pass
            elif self._body and not await _has_json(request):
                receive = await _replay_body(request, receive)
            else:
                try:
                    response = await handler(request)
                except Exception as error:  # noqa: BLE001  # raised again
                    # Error handlers get this very request object, whose body was read already.
                    response = wrap_app_handling_exceptions(_raising(error), request)
            await response(scope, receive, send)

        return app

    async def run(self, request: Request) -> Response:
        """Call the dependencies and the endpoint with arguments from the request."""
        body = await request.json() if self._body else None
        text = request.scope["query_string"].decode("latin-1")
        pairs = parse_qsl(text, True) if text else []
        bodies = {self._body.alias: body} if self._body else {}
        telemetry = get_telemetry_data() if "fastapi.telemetry" in request.scope else None
        if telemetry:
            telemetry.request, telemetry.body = request, body
        # As in Starlette: of a repeated parameter, the last value counts.
        sources = Sources((request.path_params, dict(pairs), bodies), pairs)
        result, errors = await self._call(request, sources, telemetry)
        if errors:
            error = RequestValidationError(errors, body=body, endpoint_ctx=self._place(request))
            _validation_failed(error)
            raise error
        return self._respond(request, result)

    async def _call(
        self, request: Request, sources: Sources, telemetry: TelemetryData | None
    ) -> tuple[Any, list[Any]]:
        """The endpoint's result, or the validation errors because of which it was not called."""
        results: list[tuple[Any, list[Any]]] = []
        for step in self._steps:
            arguments: dict[str, Any] = dict.fromkeys(step.request_names, request)
            errors: list[Any] = []
            for name, place in step.parts:
                result, further = results[place]
                errors += further
                if name:
                    arguments[name] = result
            for parameter in step.parameters:
                arguments[parameter.name] = parameter.parse(sources, errors)
            if telemetry and step is self._steps[-1]:
                telemetry.values, telemetry.errors = arguments, errors
            results.append((None if errors else await step.call(**arguments), errors))
        return results[-1]

    def _respond(self, request: Request, result: Any) -> Response:
        if isinstance(result, Response):
            return result
        if self._response_field is None:
            response = JSONResponse(jsonable_encoder(result), self._status)
            response.body = b""
            return response
        try:
            result = self._validate(result, from_attributes=True)
        except ValidationError:
            _, errors = self._response_field.validate(result, loc=("response",))
            place = self._place(request)
            raise ResponseValidationError(errors, body=result, endpoint_ctx=place) from None
        content = self._to_json(result, by_alias=True)
        return Response(content, self._status, media_type="application/json")

    def _place(self, request: Request) -> EndpointContext:
        """The file, line and operation that an error is about, for the log."""
        mount = request.scope.get("root_path", "").rstrip("/")
        path = f"{request.method} {mount}{self._path}"
        return {**_extract_endpoint_context(self._steps[-1].call), "path": path}


def _raising(error: Exception) -> ASGIApp:
    async def app(*_: Any) -> NoReturn:
        raise error

    return app


def _is_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0]
    return media_type.strip().lower() == "application/json"


async def _has_json(request: Request) -> bool:
    try:
        await request.json()
    except (ValueError, RecursionError):
        return False
    return True


async def _replay_body(request: Request, receive: Receive) -> Receive:
    """A `receive` that returns the request's body again."""
    body: Message | None = {"type": "http.request", "body": await request.body()}

    async def receive_body() -> Message:
        nonlocal body
        message, body = body, None
        return message or await receive()

    return receive_body
