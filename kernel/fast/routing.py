"""Finds the operation of a path, in a time that does not grow with the number of slices."""

import logging
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from operator import is_
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute, RouteContext, iter_route_contexts
from fastapi.telemetry._api import _route_selected
from starlette._utils import get_route_path
from starlette.convertors import PathConvertor, StringConvertor
from starlette.routing import BaseRoute, Host, Match, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from kernel.context import current_context
from kernel.fast.ids import IdConvertor
from kernel.fast.planning import NeedsFastAPI
from kernel.fast.switches import OFF

logger = logging.getLogger(__name__)
# The `matches` methods that depend only on the scope and do not change it.
KNOWN_MATCHES = {
    cls.matches for cls in (APIRoute, APIWebSocketRoute, Host, Mount, Route, WebSocketRoute)
}
# The convertors that return the text of the path as it is.
TEXT_CONVERTORS = {IdConvertor, PathConvertor, StringConvertor}


class _Candidate:
    """A route that may match a request."""

    def __init__(self, context: RouteContext) -> None:
        self.context, self.route, self.endpoint = context, context.original_route, context.endpoint
        self.is_api = isinstance(self.route, APIRoute)
        matches = self.route.matches if self.is_api else context.matches
        self.is_known = _is_known(matches)
        convertors = {type(item) for item in getattr(context, "param_convertors", {}).values()}
        # A route without methods matches every method.
        is_plain = self.is_known and self.is_api and convertors <= TEXT_CONVERTORS
        self.is_plain = is_plain and bool(context.methods)
        if self.is_plain:
            self.pattern: re.Pattern[str] = context.path_regex
            self.methods: set[str] = context.methods or set()
        self.path = context.path_format
        self.segment = _first_segment(self.path or "/{}") if self.is_known else None

    def may_match(self, scope: Scope) -> bool:
        return not self.is_known or self.context.matches(scope)[0] is Match.FULL

    @cached_property
    def app(self) -> ASGIApp | None:
        """The operation's short way if it has one, made when it is first needed."""
        make: Callable[[RouteContext], ASGIApp] | None = getattr(self.route, "short_way", None)
        try:
            return make(self.context) if make else None
        except NeedsFastAPI:
            return None
        except Exception:
            logger.warning("no short way for %s: FastAPI runs it", self.context.path, exc_info=True)
            return None


class Switchboard:
    """Dispatches a request to its operation by the path's first segment, or to FastAPI's router.

    FastAPI asks each mounted router in turn, and matches each of its routes twice. Here the routes
    keep that order. The search ends with FastAPI's router at a route without a short way that may
    match; a route with a `matches` method of its own may match any request.
    """

    def __init__(self, app: FastAPI) -> None:
        self._router, self._long_way = app.router, app.router.middleware_stack
        # Off if the router has a middleware, such as a body limit, which would be bypassed.
        is_first = self._long_way == self._router.app
        self._is_on = is_first and type(self._router) is APIRouter
        self._routes: list[BaseRoute] = []
        self._routers: list[APIRouter] = []
        self._versions: list[int] = []
        self._parts: list[_Part] = []
        self._segments: set[str | None] = set()
        self._by_segment: dict[str | None, list[_Candidate]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_short = scope["type"] == "http" and self._is_on and "plan" not in OFF
        app = self._find(scope) if is_short else None
        await (app or self._long_way)(scope, receive, send)

    def _find(self, scope: Scope) -> ASGIApp | None:
        """The operation's short way, or None. Sets what FastAPI's router sets in the scope."""
        path = get_route_path(scope) if scope.get("root_path") else scope["path"]
        telemetry, method = scope.get("fastapi.telemetry"), scope["method"]
        # A pattern's `$` also matches before a final line break, unlike the segments here. With a
        # tracer, FastAPI makes a span of each of its steps.
        if path.endswith("\n") or getattr(telemetry, "tracer", None):
            return None
        if self._is_outdated():
            self._rebuild()
        segment = path[1:].partition("/")[0]
        for candidate in self._by_segment.get(segment) or self._candidates(segment):
            if not candidate.is_plain:
                if candidate.may_match(scope):
                    return None
            elif method in candidate.methods and (match := candidate.pattern.match(path)):
                if app := candidate.app:
                    scope.setdefault("router", self._router)
                    scope["path_params"] = {**scope.get("path_params", {}), **match.groupdict()}
                    scope["route"], scope["endpoint"] = candidate.route, candidate.endpoint
                    if request := current_context():
                        request.route = candidate.path
                    if telemetry:
                        _route_selected(scope=scope, path=candidate.path)
                return app
        return None

    def _is_outdated(self) -> bool:
        routes = self._router.routes
        is_same = len(routes) == len(self._routes) and all(map(is_, routes, self._routes))
        # As FastAPI does, notice a change within a mounted router by its version.
        return not is_same or self._versions != [item._routes_version for item in self._routers]

    def _rebuild(self) -> None:
        self._routes = [*self._router.routes]
        self._routers = [*_routers_in(self._routes)]
        self._versions = [item._routes_version for item in self._routers]
        self._parts = [_Part(route) for route in self._routes]
        self._segments = {segment for part in self._parts for segment in part.segments}
        self._by_segment = {}

    def _candidates(self, segment: str) -> list[_Candidate]:
        """The routes that may match a path with this first segment. All segments that no route
        names have the same candidates, cached under None."""
        key = segment if segment in self._segments else None
        if key not in self._by_segment:
            parts = [part for part in self._parts if not part.segments.isdisjoint((key, None))]
            self._by_segment[key] = [
                candidate
                for part in parts
                for candidate in part.candidates
                if candidate.segment in (key, None)
            ]
        return self._by_segment[key]


class _Part:
    """A mounted route or router. FastAPI analyses each route of a mounted router anew, so the
    candidates are made when the first path comes that one of them may match."""

    def __init__(self, route: BaseRoute) -> None:
        self._route, self.segments = route, {*_segments_of(route, "")}

    @cached_property
    def candidates(self) -> list[_Candidate]:
        return [_Candidate(context) for context in _contexts_of(self._route)]


def _segments_of(route: BaseRoute, prefix: str) -> Iterator[str | None]:
    """The first segments of the route's paths, with the prefix; None stands for any."""
    mounted: Any = route
    router = getattr(mounted, "original_router", None)
    if router is not None and _is_known_router(router):
        prefix += mounted.include_context.prefix
        for child in router.routes:
            yield from _segments_of(child, prefix)
    elif isinstance(route, APIRoute) and _is_known(route.matches):
        yield _first_segment(prefix + route.path)
    else:
        yield None


def _first_segment(path: str) -> str | None:
    first = path[1:].partition("/")[0]
    return None if "{" in first else first


def _is_known(matches: object) -> bool:
    return getattr(matches, "__func__", None) in KNOWN_MATCHES


def _contexts_of(route: BaseRoute) -> Iterator[RouteContext]:
    """The routes in it, in order, with the options of the routers around them. A router with
    `matches` or `handle` of its own counts as one route."""
    if all(map(_is_known_router, _routers_in([route]))):
        yield from iter_route_contexts([route])
    else:
        yield RouteContext(route)


def _routers_in(routes: list[BaseRoute]) -> Iterator[APIRouter]:
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is not None:
            yield router
            yield from _routers_in(router.routes)


def _is_known_router(router: APIRouter) -> bool:
    return all(
        getattr(getattr(router, name), "__func__", None) is getattr(APIRouter, name)
        for name in ("matches", "handle")
    )
