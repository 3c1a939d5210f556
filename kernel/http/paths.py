"""Checks of a request's path and Host, and the path template of its operation."""

import re
from collections.abc import Sequence
from typing import Any

from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Mount
from starlette.types import Scope

from kernel.context import HEADER_NAMES, RequestContext

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc
SCRAPED = "/metrics"
UNCLEAN = "the path should have no control characters"


def is_unclean(scope: Scope) -> bool:
    """Whether the path has control characters, which a terminal that shows it would obey."""
    path: str = scope["path"]
    return not path.isprintable() and CONTROL.search(path) is not None


def is_scraped(scope: Scope) -> bool:
    """Whether it is a scrape of the metrics, which must work while other requests are refused."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) == SCRAPED


def route_of(scope: Scope, context: RequestContext) -> str | None:
    """The path template of the request's operation as mounted, such as `/items/{id}`, or None."""
    if context.route is None and "route" in scope:
        # A route has its path within its router, and not where the router is mounted.
        mounted = scope.get("fastapi", {}).get("effective_route_context")
        if isinstance(getattr(mounted, "original_route", None), Mount):
            mounted = None  # the route is one of a mounted app
        places = (getattr(mounted, "starlette_route", None), mounted, scope["route"])
        paths = [getattr(place, "path_format", None) for place in places]
        context.route = next(filter(None, paths), None)
        if context.route and "app_root_path" in scope:  # of a mounted app
            mounted_at = scope["root_path"].removeprefix(scope["app_root_path"])
            context.route = _mount_template(context.app.routes, mounted_at) + context.route
    if context.route is None:
        context.unmatched_path = scope["path"]
    return context.route


def _mount_template(routes: Sequence[BaseRoute | RouteContext], mounted_at: str) -> str:
    """The path template of the mounts that lead to a mounted app; "" if they are not found."""
    for context in iter_route_contexts(routes):
        mount: Any = context  # which has the attributes of its route
        if not isinstance(context.original_route, Mount):
            continue
        if match := mount.path_regex.match(f"{mounted_at}/"):
            template: str = mount.path_format.removesuffix("/{path}")
            rest = match["path"].rstrip("/")
            return template + (_mount_template(mount.routes, f"/{rest}") if rest else "")
    return ""


def names_one_host(scope: Scope) -> bool:
    """Whether the request has one `Host` header (RFC 9112 §3.2)."""
    if len(scope["headers"]) == len(scope[HEADER_NAMES]):
        return b"host" in scope[HEADER_NAMES]
    return [name for name, _ in scope["headers"]].count(b"host") == 1
