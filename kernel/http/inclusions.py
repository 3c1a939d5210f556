"""Routers and apps that read the parameters of what their routes depend on."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute

from kernel.http.parameters import read_dependencies, with_read_parameters
from kernel.http.problems import PROBLEM_DETAILS


class ReadingRouter(APIRouter):
    """A router whose WebSockets and inclusions have their parameters read; its route class reads
    those of its other operations. `_errors` is the form of its WebSockets' errors."""

    _errors = PROBLEM_DETAILS

    def add_api_websocket_route(
        self, path: str, endpoint: Callable[..., Any], *args: Any, **options: Any
    ) -> None:
        read_dependencies([*self.dependencies, *(options.get("dependencies") or [])])
        super().add_api_websocket_route(path, with_read_parameters(endpoint), *args, **options)
        route: Any = self.routes[-1]
        route.errors = self._errors

    def include_router(self, router: APIRouter, **options: Any) -> None:
        read_dependencies([*self.dependencies, *(options.get("dependencies") or [])])
        _read_operations(router)
        super().include_router(router, **options)


class ReadingRoute(APIRoute):
    """An operation of the app itself, without the boundary."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        read = with_read_parameters(endpoint, options.get("dependencies") or [])
        super().__init__(path, read, **options)


class ReadingApp(FastAPI):
    """An app that reads the parameters of its own operations, of what it includes, and of what
    overrides a dependency."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.router.route_class = ReadingRoute

    @property
    def dependency_overrides(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        """What FastAPI calls instead of a dependency, read when it looks for one."""
        if self._overrides:  # mostly there are none, and this is asked in each request
            read_dependencies(map(Depends, self._overrides.values()))
        return self._overrides

    @dependency_overrides.setter
    def dependency_overrides(self, overrides: dict[Callable[..., Any], Callable[..., Any]]) -> None:
        self._overrides = overrides

    def add_api_websocket_route(
        self, path: str, endpoint: Callable[..., Any], *args: Any, **options: Any
    ) -> None:
        read_dependencies(options.get("dependencies") or [])
        super().add_api_websocket_route(path, with_read_parameters(endpoint), *args, **options)

    def include_router(self, router: APIRouter, **options: Any) -> None:
        read_dependencies(options.get("dependencies") or [])
        _read_operations(router)
        super().include_router(router, **options)


def _read_operations(router: APIRouter) -> None:
    """Read the parameters of a router of FastAPI's own, which makes each operation anew where it is
    included, and of those within it."""
    read_dependencies(router.dependencies)
    for route in router.routes:
        inclusion: Any = route
        if hasattr(route, "original_router"):
            read_dependencies(inclusion.include_context.dependencies)
            _read_operations(inclusion.original_router)
        elif isinstance(route, APIRoute | APIWebSocketRoute):
            read_dependencies([Depends(route.endpoint), *route.dependencies])
