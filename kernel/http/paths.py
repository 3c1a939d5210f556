"""What a path may hold."""

import re

from starlette.types import Scope

from kernel.context import ROUTE

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc
UNCLEAN = "the path should have no control characters"


def is_unclean(scope: Scope) -> bool:
    """Whether the path has control characters, which whoever logs or shows it would obey."""
    path: str = scope["path"]
    return not path.isprintable() and CONTROL.search(path) is not None


def route_of(scope: Scope) -> str | None:
    """The path of the request's operation as it is mounted, with names instead of values."""
    if ROUTE in scope:
        path: str | None = scope[ROUTE]
        return path
    # A router may be mounted in several places; its route knows none of them.
    context = scope.get("fastapi", {}).get("effective_route_context")
    return getattr(context or scope.get("route"), "path_format", None)
