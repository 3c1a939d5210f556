"""Other services, as a slice's tests answer for them: no test asks a real one."""

from collections.abc import Iterable
from typing import Any

import httpx

from kernel.testing.hooks import Hooks, settle

LOCAL = {"127.0.0.1", "::1", "localhost"}
unanswered: list[str] = []
"""What the service has asked in this test, and for which UPSTREAMS has no answer."""
_send = httpx.AsyncHTTPTransport.handle_async_request


class Upstreams(dict[str, Any]):
    """Answers, by the URL that they are for or its beginning: JSON, an `httpx.Response`, or a
    (maybe async) callable of the `httpx.Request` that gives one of them."""

    def __init__(self, slices: Iterable[Hooks] = ()) -> None:
        super().__init__()
        for hooks in slices:
            self.update(hooks.get("UPSTREAMS"))

    async def answer(
        self, transport: httpx.AsyncHTTPTransport, request: httpx.Request
    ) -> httpx.Response:
        """Stands in for httpx's way to the network."""
        url = str(request.url)
        known = sorted((each for each in self if url.startswith(each)), key=len)
        if not known:
            if request.url.host in LOCAL:
                return await _send(transport, request)
            unanswered.append(url)
            raise httpx.ConnectError(f"no test answers for {url}: UPSTREAMS", request=request)
        given = self[known[-1]]
        given = await settle(given(request)) if callable(given) else given
        is_whole = isinstance(given, httpx.Response)
        return given if is_whole else httpx.Response(200, json=given, request=request)
