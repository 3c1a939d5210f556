"""Hooks: names in a slice's test module that configure the walks, such as `RULES`, `SAMPLES`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module, util
from inspect import isawaitable
from types import ModuleType
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

BY_OPERATION = ("RULES", "RULES_OUTSIDE_DEV", "SAMPLES", "BEFORE", "COSTS", "SKIPS")
"""The hooks whose keys are operations, by their ids; KEYS has path parameters, UPSTREAMS URLs."""


@dataclass(frozen=True)
class Hooks:
    """The hooks of one slice, and the file that has them; without a module, the file to write."""

    file: str
    module: ModuleType | None

    def get(self, name: str) -> dict[str, Any]:
        """The hook of this name, or an empty dict."""
        hook: dict[str, Any] = getattr(self.module, name, {})
        return hook

    def advise(self, name: str, key: str, value: str) -> str:
        """What to write into which file: one entry of a hook, as a line that can be pasted. What a
        comment in the value says comes behind it."""
        entry, mark, comment = value.partition("  # ")
        return f"{self.file} can say {name} = {{{json.dumps(key)}: {entry}}}{mark}{comment}"


def hooks_of(endpoint_module: str) -> Hooks:
    """The hooks of the slice that the module belongs to: `features.items.router` has them in
    `features/items/test_items.py`, and `service` in `tests/test_service.py`."""
    *package, last = endpoint_module.split(".")
    if not package:
        return _hooks("tests", last) or Hooks(f"tests/test_{last}.py", None)
    candidates = (
        _hooks(".".join(package[:end]), package[end - 1]) for end in range(len(package), 0, -1)
    )
    default = Hooks(f"{'/'.join(package)}/test_{package[-1]}.py", None)
    return next((hooks for hooks in candidates if hooks), default)


@cache
def _hooks(package: str, name: str) -> Hooks | None:
    module = f"{package}.test_{name}"
    if util.find_spec(module) is None:
        return None
    return Hooks(f"{module.replace('.', '/')}.py", import_module(module))


def endpoints(app: FastAPI) -> Iterator[tuple[str, str, str]]:
    """Method, path and module of every endpoint of the app."""
    for route in iter_route_contexts(app.routes):
        module, path = getattr(route.endpoint, "__module__", None), route.path_format
        if module and path is not None:
            yield from ((method, path, module) for method in route.methods or ())


def all_hooks(app: FastAPI) -> list[Hooks]:
    """The hooks of all that is mounted, in an order that all workers of a run share."""
    by_file = {hooks.file: hooks for module in modules(app) if (hooks := hooks_of(module)).module}
    return [by_file[file] for file in sorted(by_file)]


def modules(app: FastAPI) -> set[str]:
    """The modules with endpoints: the slices' routers, and FastAPI's own for its documents."""
    return {module for _, _, module in endpoints(app)}


async def settle(value: Any) -> Any:
    """The value that a hook's callable returned, awaited if it is awaitable."""
    return await value if isawaitable(value) else value
