"""How many bytes a body may have: the service's limit, or a higher one of the operation.

That is FastAPI's `max_body_size` of an operation, a router, an inclusion or a mounted app, which
FastAPI itself enforces. It is looked up only for a body beyond the service's limit, so that all
other requests cost nothing.
"""

from collections.abc import Iterable
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Match
from starlette.types import Message, Scope

TOO_LARGE = "the body is too large"
# The keys of the scope that a route is matched by; with others, matching would write into them.
MATCH_KEYS = ("type", "path", "root_path", "method", "headers")
# The headers of Starlette's own 413, which is plain text; every request with a declared length that
# is too large gets this one.
STARLETTE_HEADERS = PlainTextResponse("Content Too Large", 413).raw_headers


def limit_of(app: Any, scope: Scope, default: int) -> int:
    """The limit in bytes for a request to the app; at least the default."""
    match_scope = {name: scope[name] for name in MATCH_KEYS if name in scope}
    if "app_root_path" in scope:  # the request has come to a mounted app already
        match_scope["root_path"] = scope["app_root_path"]
    return max(default, _find_limit(getattr(app, "routes", ()), match_scope))


def limit_beyond(size: int, app: Any, scope: Scope, default: int) -> int:
    """The limit in bytes for a request whose body has `size` bytes, more than the default.

    Raises:
        HTTPException: a 413, if the body is beyond that limit, too.
    """
    if size > (limit := limit_of(app, scope, default)):
        raise HTTPException(413, TOO_LARGE)
    return limit


def _find_limit(routes: Iterable[BaseRoute], match_scope: Scope) -> int:
    """The limit of the first route that matches, or 0 if it has none."""
    for route in routes:
        for context in iter_route_contexts([route]):
            match, child = context.matches({**match_scope})
            if match is not Match.FULL:
                continue
            if limit := getattr(context, "max_body_size", None):
                return int(limit)
            # A mounted app: its routes come first, then the app itself, then its inclusion.
            app: Any = getattr(context, "app", None)
            inner = _find_limit(getattr(app, "routes", ()), match_scope | child)
            included = getattr(getattr(route, "include_context", None), "max_body_size", None)
            return inner or getattr(app, "max_body_size", None) or included or 0
    return 0


def is_refusal(message: Message) -> bool:
    """Whether the message begins Starlette's own 413 response."""
    return message["status"] == 413 and [*message.get("headers", ())] == STARLETTE_HEADERS
