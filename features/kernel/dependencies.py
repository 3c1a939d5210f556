"""Dependencies that ask for nothing but the request, provided without FastAPI's solver.

For each dependency the solver looks for path, query, header and cookie parameters, scopes and a
cache key, which costs as much as a round trip to the database. `Session`, `Reader`, `CurrentUser`
and their like have none of these, so the boundary calls them itself, before it reads the body.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import Parameter, Signature, iscoroutinefunction, signature
from typing import Any, get_args

from fastapi import Request, params

from features.kernel.preconditions import note_answer

Endpoint = Callable[..., Any]
Provider = Callable[[Request], Awaitable[Any]]


class Provided:
    """An endpoint, and the parameters of it that the boundary provides.

    `call` is what is left for FastAPI: the same endpoint without these parameters. An entry of
    `app.dependency_overrides` for one of them has to take the request, too.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.providers: dict[str, Provider] = {}
        self.call = endpoint
        if iscoroutinefunction(endpoint):  # a stream of events, say, is all FastAPI's
            known = signature(endpoint, eval_str=True)
            found = {name: _provider(each) for name, each in known.parameters.items()}
            self.providers = {name: each for name, each in found.items() if each}
            self.call = self._without_providers(endpoint, known)

    async def provide(self, request: Request) -> None:
        """Call the providers, for `call` to find what they gave."""
        overrides = request.app.dependency_overrides
        request.scope["provided"] = {
            name: await overrides.get(provider, provider)(request)
            for name, provider in self.providers.items()
        }

    def _without_providers(self, endpoint: Endpoint, known: Signature) -> Endpoint:
        left = [each for name, each in known.parameters.items() if name not in self.providers]
        asks = any(each.annotation is Request for each in left)
        own = Parameter("request", Parameter.KEYWORD_ONLY, annotation=Request)

        @wraps(endpoint)
        async def call(request: Request, **values: Any) -> Any:
            if asks:
                values["request"] = request
            result = await endpoint(**values, **request.scope["provided"])
            note_answer(result)
            return result

        call.__signature__ = known.replace(  # type: ignore[attr-defined]  # PEP 362
            parameters=[each.replace(kind=Parameter.KEYWORD_ONLY) for each in left]
            + ([] if asks else [own])
        )
        return call


def _provider(parameter: Parameter) -> Provider | None:
    marks = [mark for mark in get_args(parameter.annotation) if isinstance(mark, params.Depends)]
    call = marks[0].dependency if marks else None
    if call is None or isinstance(marks[0], params.Security):
        return None
    asked = [each.annotation for each in signature(call, eval_str=True).parameters.values()]
    plain = iscoroutinefunction(call) or iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
    return call if asked == [Request] and plain else None
