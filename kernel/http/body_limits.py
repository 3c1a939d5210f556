"""How many bytes a body may have: the service's limit, unless who answers has a higher one.

FastAPI's `max_body_size` of an operation, a router, an inclusion or a mounted app says so, and
FastAPI itself holds it. Here it is looked for when a body is beyond the service's limit, so that
all others cost nothing.
"""

from collections.abc import Iterable
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Match
from starlette.types import Message, Scope

TOO_LARGE = "the body is too large"
# What a route is found by; more would be written into by the search.
ASKED = ("type", "path", "root_path", "method", "headers")
# Starlette's answer, which has no form; one of a request with a declared length is always this.
FRAMEWORKS = PlainTextResponse("Content Too Large", 413).raw_headers


def limit_of(app: Any, scope: Scope, default: int) -> int:
    """What holds for a request to the app, in bytes; never less than the default."""
    asked = {name: scope[name] for name in ASKED if name in scope}
    if "app_root_path" in scope:  # the request has come to a mounted app already
        asked["root_path"] = scope["app_root_path"]
    return max(default, _find_limit(getattr(app, "routes", ()), asked))


def limit_beyond(size: int, app: Any, scope: Scope, default: int) -> int:
    """What holds for a request whose body has more bytes than the default.

    Raises:
        HTTPException: a 413, since it has more than that, too.
    """
    if size > (limit := limit_of(app, scope, default)):
        raise HTTPException(413, TOO_LARGE)
    return limit


def _find_limit(routes: Iterable[BaseRoute], asked: Scope) -> int:
    """That of the first route that the request is for, or 0."""
    for route in routes:
        for context in iter_route_contexts([route]):
            match, child = context.matches({**asked})
            if match is not Match.FULL:
                continue
            if own := getattr(context, "max_body_size", None):
                return int(own)
            # A mounted app; what has no limit of its own has that of its inclusion.
            app: Any = getattr(context, "app", None)
            inner = _find_limit(getattr(app, "routes", ()), asked | child)
            included = getattr(getattr(route, "include_context", None), "max_body_size", None)
            return inner or getattr(app, "max_body_size", None) or included or 0
    return 0


def is_refusal(message: Message) -> bool:
    """Whether an answer begins that is Starlette's own to a body that is too large."""
    return message["status"] == 413 and [*message.get("headers", ())] == FRAMEWORKS
