"""Which query parameters an operation takes, for a `Filter` that refuses others."""

from fastapi import Request, Response

from kernel.context import query_names
from kernel.fast.plan import Handler


def with_known_names(handler: Handler, names: frozenset[str]) -> Handler:
    """The handler, whose `Filter` refuses query parameters of other names."""

    async def run(request: Request) -> Response:
        token = query_names.set(names)
        try:
            return await handler(request)
        finally:
            query_names.reset(token)

    return run
