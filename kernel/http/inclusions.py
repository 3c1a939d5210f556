"""Routers and apps that read the parameters of what their routes depend on."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI

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
        super().include_router(router, **options)


class ReadingApp(FastAPI):
    """An app whose inclusions and overrides of dependencies have their parameters read."""

    @property
    def dependency_overrides(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        """What FastAPI calls instead of a dependency, read when it looks for one."""
        read_dependencies(map(Depends, self._overrides.values()))
        return self._overrides

    @dependency_overrides.setter
    def dependency_overrides(self, overrides: dict[Callable[..., Any], Callable[..., Any]]) -> None:
        self._overrides = overrides

    def include_router(self, router: APIRouter, **options: Any) -> None:
        read_dependencies(options.get("dependencies") or [])
        super().include_router(router, **options)
