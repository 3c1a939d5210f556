"""Checks of a request's path and Host, and the path template of its operation."""

import re

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
        places = (getattr(mounted, "starlette_route", None), mounted, scope["route"])
        paths = [getattr(place, "path_format", None) for place in places]
        context.route = next(filter(None, paths), None)
    if context.route is None:
        context.unmatched_path = scope["path"]
    return context.route


def names_one_host(scope: Scope) -> bool:
    """Whether the request has one `Host` header (RFC 9112 §3.2)."""
    if len(scope["headers"]) == len(scope[HEADER_NAMES]):
        return b"host" in scope[HEADER_NAMES]
    return [name for name, _ in scope["headers"]].count(b"host") == 1
