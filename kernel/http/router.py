"""The request boundary: one unit of work for each write, committed before the answer leaves.

`Router` is a slice's `APIRouter`. Handlers flush; what they leave is committed here, once FastAPI
has made the response and before a byte of it is sent. Whatever raises, rolls back. (Committing in
a dependency, after its `yield`, happens when the client already has its 201.)
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute, RouteContext
from starlette.types import ASGIApp

from kernel.context import current_context
from kernel.data.driver import Isolation
from kernel.fast.plan import Handler, Plan
from kernel.fast.routing import with_plain_ids
from kernel.http.bodies import with_checked_body, with_trimmed_lines
from kernel.http.openapi import (
    declared_errors,
    document_headers,
    holds_secret,
    in_form,
    input_names,
    is_write,
)
from kernel.http.preconditions import noting, tag_response
from kernel.http.problems import PROBLEM_DETAILS, ErrorForm
from kernel.http.writes import Write

RETRIES = 2
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class BoundaryRoute(APIRoute):
    """A route whose writes are units of work, and which OpenAPI tells the whole truth about."""

    isolation: Isolation | None = None
    retries = RETRIES
    errors = PROBLEM_DETAILS

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        endpoint = noting(with_trimmed_lines(endpoint))
        super().__init__(with_plain_ids(path, endpoint), endpoint, **options)
        self.responses = {**declared_errors(self), **in_form(self.responses, self.errors)}
        self.openapi_extra = {**document_headers(self), **(self.openapi_extra or {})}

    def get_route_handler(self) -> Handler:
        return self._within(super().get_route_handler(), is_planned=False)

    def plan(self, context: RouteContext) -> ASGIApp:
        """The short way through the operation as it is mounted.

        Raises:
            Unplanned: it needs all of FastAPI.
        """
        plan = Plan(context)
        return plan.app(self._within(plan.run, is_planned=True))

    @cached_property
    def input_names(self) -> frozenset[str]:
        """The names of all that a client may send."""
        return input_names(self)

    @cached_property
    def holds_secret(self) -> bool:
        """Whether the answer is not to be stored."""
        return holds_secret(self)

    def _within(self, handler: Handler, *, is_planned: bool) -> Handler:
        if self.body_field is not None:
            handler = with_checked_body(handler, self.body_field.field_info)
        if is_write(self):
            return Write(handler, self, is_planned=is_planned).run
        return _read(handler)


class Router(APIRouter):
    """A slice's router.

    `isolation` is the level of its writes' transactions, "repeatable_read" or "serializable"
    instead of PostgreSQL's "read_committed"; `retries` is how often a write is run again when
    somebody was in its way (0 for what must not run twice). An operation may have its own:
    `@router.post("/payments", retries=0)`. `errors` is the form of its failures, if it is not the
    house's; `lifespan` opens what the slice needs itself, before the first request.
    """

    def __init__(
        self,
        *,
        isolation: Isolation | None = None,
        retries: int = RETRIES,
        errors: ErrorForm = PROBLEM_DETAILS,
        **options: Any,
    ) -> None:
        route_class = type("BoundaryRoute", (BoundaryRoute,), {"errors": errors})
        super().__init__(route_class=route_class, redirect_slashes=False, **options)
        self._isolation, self._retries = isolation, retries

    def add_api_route(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        isolation: Isolation | None = None,
        retries: int | None = None,
        **options: Any,
    ) -> None:
        super().add_api_route(path, endpoint, **options)
        route = self.routes[-1]
        if isinstance(route, BoundaryRoute):
            route.isolation = isolation or self._isolation
            route.retries = self._retries if retries is None else retries

    def api_route(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        def add(endpoint: Endpoint) -> Endpoint:
            self.add_api_route(path, endpoint, **options)
            return endpoint

        return add

    def post(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.api_route(path, methods=["POST"], **options)

    def put(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.api_route(path, methods=["PUT"], **options)

    def patch(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.api_route(path, methods=["PATCH"], **options)

    def delete(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.api_route(path, methods=["DELETE"], **options)


def _read(handler: Handler) -> Handler:
    async def run(request: Request) -> Response:
        response = tag_response(request, await handler(request))
        if (context := current_context()) and context.link:
            response.raw_headers.append((b"link", context.link.encode()))
        return response

    return run
