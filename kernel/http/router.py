"""The request boundary: one unit of work for each write, committed before the answer leaves.

`Router` is a slice's `APIRouter`. Handlers flush; the commit happens here, when FastAPI has made
the response and no byte of it is sent. An exception rolls back. (A dependency that commits after
its `yield` would do so when the client has its 201 already.)
"""

from collections.abc import Callable
from functools import cached_property
from inspect import isfunction
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute, RouteContext
from starlette.types import ASGIApp

from kernel.context import current_context
from kernel.data.driver import Isolation
from kernel.fast.plan import Handler, Plan
from kernel.fast.planning import NeedsFastAPI
from kernel.http.answer_headers import Audience
from kernel.http.bodies import with_checked_body
from kernel.http.deadlines import set_timeout
from kernel.http.inclusions import ReadingRouter
from kernel.http.openapi import declared_errors, document_headers, in_form
from kernel.http.parameters import with_plain_ids, with_read_parameters
from kernel.http.preconditions import Place, row_place, tag_response
from kernel.http.problems import PROBLEM_DETAILS, ErrorForm
from kernel.http.query_names import with_known_names
from kernel.http.secrets import UNDECLARED, holds_secret, noting_secrets
from kernel.http.signatures import (
    audience_of,
    has_query_model,
    input_names,
    is_write,
    may_read_body,
    names_in_query,
    takes_key,
)
from kernel.http.writes import Write

RETRIES = 2
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class BoundaryRoute(APIRoute):
    """A route whose writes are units of work, with its errors and headers in OpenAPI."""

    isolation: Isolation | None = None
    retries = RETRIES
    timeout: float | None = None
    errors = PROBLEM_DETAILS

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        declared = options.get("response_model", UNDECLARED)
        dependencies = options.get("dependencies") or []
        options["name"] = options.get("name") or _name_of(endpoint)  # before it is wrapped
        endpoint = noting_secrets(with_read_parameters(endpoint, dependencies), declared)
        super().__init__(with_plain_ids(path, endpoint, dependencies), endpoint, **options)
        self.responses = {**declared_errors(self), **in_form(self.responses, self.errors)}
        self.openapi_extra = {**document_headers(self), **(self.openapi_extra or {})}

    def get_route_handler(self) -> Handler:
        return self._within(super().get_route_handler(), is_planned=False)

    def short_way(self, context: RouteContext) -> ASGIApp:
        """The short way through the operation as mounted: the same without FastAPI's own steps.

        Raises:
            NeedsFastAPI: the short way is not known to be equal.
        """
        has_own_methods = any(isfunction(getattr(type(self), name, None)) for name in vars(self))
        if "is_plain" not in vars(type(self)) or has_own_methods:
            raise NeedsFastAPI("a route class of its own")
        plan = Plan(context)
        return plan.app(self._within(plan.run, is_planned=True))

    @cached_property
    def input_names(self) -> frozenset[str]:
        """The names of all parameters and fields of bodies that a client may send."""
        return input_names(self)

    @cached_property
    def holds_secret(self) -> bool:
        """Whether the response holds a secret, and must not be stored."""
        return holds_secret(self)

    @cached_property
    def audience(self) -> Audience:
        """Who gets the same response."""
        return audience_of(self)

    @cached_property
    def row_place(self) -> Place | None:
        """The path in a response to the row that it is about, or None."""
        return row_place(self.response_model)

    @cached_property
    def takes_key(self) -> bool:
        """Whether the operation takes an Idempotency-Key."""
        return takes_key(self)

    @cached_property
    def may_read_body(self) -> bool:
        """Whether the handler may read a body that the signature does not declare."""
        return may_read_body(self)

    def _within(self, handler: Handler, *, is_planned: bool) -> Handler:
        if self.body_field is not None:
            handler = with_checked_body(handler, self.body_field.field_info)
        if has_query_model(self):
            handler = with_known_names(handler, names_in_query(self))
        if is_write(self):
            return Write(handler, self, is_planned=is_planned).run
        return _read(handler, self)


class Router(ReadingRouter):
    """A slice's router.

    `isolation` is the level of its writes' transactions, "repeatable_read" or "serializable"
    instead of PostgreSQL's "read_committed". `retries` is how often a write is run again after a
    conflict with another transaction or a lost connection (0 for what must not run twice).
    `timeout` is how many seconds a response may take to begin, instead of `APP_REQUEST_TIMEOUT`
    (`math.inf` for no limit). An operation may have its own of these:
    `@router.post("/payments", retries=0)`. `errors` is the form of its error responses; `lifespan`
    opens what the slice needs itself, before the first request. A `route_class` is put around the
    boundary.

    Raises:
        ValueError: a timeout is not above 0.
    """

    def __init__(
        self,
        *,
        isolation: Isolation | None = None,
        retries: int = RETRIES,
        timeout: float | None = None,
        errors: ErrorForm = PROBLEM_DETAILS,
        route_class: type[APIRoute] = APIRoute,
        **options: Any,
    ) -> None:
        bounded = _bounded(route_class, errors)
        super().__init__(route_class=bounded, redirect_slashes=False, **options)
        self._isolation, self._retries, self._errors = isolation, retries, errors
        self._timeout = _checked(timeout)

    def add_api_route(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        isolation: Isolation | None = None,
        retries: int | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        super().add_api_route(path, endpoint, **options)
        route = self.routes[-1]
        if isinstance(route, BoundaryRoute):
            route.isolation = isolation or self._isolation
            route.retries = self._retries if retries is None else retries
            route.timeout = self._timeout if timeout is None else _checked(timeout)

    def api_route(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        def add(endpoint: Endpoint) -> Endpoint:
            self.add_api_route(path, endpoint, **options)
            return endpoint

        return add

    def get(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.api_route(path, methods=["GET"], **options)

    def head(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.api_route(path, methods=["HEAD"], **options)

    def post(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.api_route(path, methods=["POST"], **options)

    def put(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.api_route(path, methods=["PUT"], **options)

    def patch(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.api_route(path, methods=["PATCH"], **options)

    def delete(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.api_route(path, methods=["DELETE"], **options)


def _name_of(endpoint: Callable[..., Any]) -> str:
    return str(getattr(endpoint, "__name__", type(endpoint).__name__))


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and not timeout > 0:
        raise ValueError("a timeout is a number of seconds above 0, or math.inf for no limit")
    return timeout


def _bounded(route_class: type[APIRoute], errors: ErrorForm) -> type[APIRoute]:
    """A subclass of the route class that has the boundary inside of it."""
    if issubclass(BoundaryRoute, route_class):
        return type("BoundaryRoute", (BoundaryRoute,), {"errors": errors, "is_plain": True})
    is_bounded = issubclass(route_class, BoundaryRoute)
    bases = (route_class,) if is_bounded else (route_class, BoundaryRoute)
    return type(route_class.__name__, bases, {"errors": errors})


def _read(handler: Handler, route: BoundaryRoute) -> Handler:
    async def run(request: Request) -> Response:
        if route.timeout is not None:
            set_timeout(route.timeout)
        response = tag_response(request, await handler(request), route.row_place)
        if (context := current_context()) and context.link:
            response.raw_headers.append((b"link", context.link.encode()))
        return response

    return run
