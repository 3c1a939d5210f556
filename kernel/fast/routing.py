"""The way from a path to its operation, which does not grow longer with each slice."""

import logging
import re
from collections.abc import Callable
from functools import cached_property
from inspect import signature
from typing import Any, get_args

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send

from kernel.fast.planning import Unplanned

logger = logging.getLogger(__name__)
# Of these, a path's parameter is its text.
TEXTS = {"id", "path", "str"}
CONVERTORS = re.compile(r":([^{}:]+)}")


class IdConvertor(Convertor[str]):
    """A plain word is no id: `/users/me` is its own routes' path, and not `/users/{user_id}`'s."""

    regex = "(?![a-z]+(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return str(value)


register_url_convertor("id", IdConvertor())


def with_plain_ids(path: str, endpoint: Callable[..., Any]) -> str:
    """The path, with its whole numbers marked as ids."""
    for name, parameter in signature(endpoint, eval_str=True).parameters.items():
        if int in (parameter.annotation, *get_args(parameter.annotation)[:1]):
            path = path.replace(f"{{{name}}}", f"{{{name}:id}}")
    return path


class _Operation:
    def __init__(self, context: RouteContext, route: APIRoute) -> None:
        self.path: re.Pattern[str] = context.path_regex
        self.methods = context.methods or set()
        self.route = route
        self._context = context

    @cached_property
    def app(self) -> ASGIApp | None:
        """The short way if there is one, made when it is first gone."""
        plan: Callable[[RouteContext], ASGIApp] | None = getattr(self.route, "plan", None)
        if plan is None or not TEXTS.issuperset(CONVERTORS.findall(self._context.path or "")):
            return None
        try:
            return plan(self._context)
        except Unplanned:
            return None
        except Exception:
            logger.warning("%s goes FastAPI's own way", self._context.path, exc_info=True)
            return None


class Switchboard:
    """Finds an operation by its path's first segment; leaves all else to FastAPI's own router.

    FastAPI asks each mounted router in turn, and each of its routes, twice. With the routes in the
    order in which they are mounted the outcome is the same.
    """

    def __init__(self, app: FastAPI) -> None:
        self._router, self._long_way = app.router, app.router.middleware_stack
        # Whether nothing stands before the routes that would be passed by, like a limit of bodies.
        self._is_first = app.router.middleware_stack == app.router.app
        self._known = -1
        self._operations: dict[str, list[_Operation]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_plain = scope["type"] == "http" and not scope.get("root_path")
        if is_plain and self._is_first and scope.get("fastapi.telemetry") is None:
            if self._known != len(self._router.routes):
                self._learn()
            path, method = scope["path"], scope["method"]
            for operation in self._operations.get(path[1:].partition("/")[0], ()):
                found = operation.path.match(path) if method in operation.methods else None
                if found and operation.app is None:
                    break
                if found and operation.app:
                    scope["path_params"] = found.groupdict()
                    scope["route"], scope["router"] = operation.route, self._router
                    scope["endpoint"] = operation.route.endpoint
                    await operation.app(scope, receive, send)
                    return
        await self._long_way(scope, receive, send)

    def _learn(self) -> None:
        self._known = len(self._router.routes)
        self._operations = {}
        opaque: set[str] = set()
        for route in iter_route_contexts(self._router.routes):
            first = (route.path or "/{}")[1:].partition("/")[0]
            if "{" in first:
                break  # it may be in the way of any route behind it
            if not isinstance(route.original_route, APIRoute):
                opaque.add(first)  # a mounted app, say
            elif first not in opaque:
                operation = _Operation(route, route.original_route)
                self._operations.setdefault(first, []).append(operation)
