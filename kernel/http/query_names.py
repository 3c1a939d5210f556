"""The names of an operation's query parameters, so that a `Filter` can refuse others."""

from fastapi import Request, Response

from kernel.context import query_names
from kernel.fast.plan import Handler


def with_known_names(handler: Handler, names: frozenset[str]) -> Handler:
    """The handler, with these names in `query_names`: its `Filter` refuses all others."""

    async def run(request: Request) -> Response:
        token = query_names.set(names)
        try:
            return await handler(request)
        finally:
            query_names.reset(token)

    return run
