"""Fakes of other services: a slice's tests give their answers, and no test calls a real one."""

from collections.abc import Iterable
from typing import Any

import httpx

from kernel.testing.hooks import Hooks, settle

LOCAL = {"127.0.0.1", "::1", "localhost"}
unanswered: list[str] = []
"""The URLs that the service has requested in this test, and for which UPSTREAMS has no answer."""
_send = httpx.AsyncHTTPTransport.handle_async_request


class Upstreams(dict[str, Any]):
    """Answers by URL or by the beginning of one, of which the longest counts: JSON, an
    `httpx.Response`, or a function, sync or async, of the `httpx.Request` that returns one."""

    def __init__(self, slices: Iterable[Hooks] = ()) -> None:
        super().__init__()
        for hooks in slices:
            self.update(hooks.get("UPSTREAMS"))

    async def answer(
        self, transport: httpx.AsyncHTTPTransport, request: httpx.Request
    ) -> httpx.Response:
        """Replaces `httpx.AsyncHTTPTransport.handle_async_request`.

        Raises:
            httpx.ConnectError: there is no answer for the URL, and it is not of this machine.
        """
        url = str(request.url)
        prefixes = sorted((prefix for prefix in self if url.startswith(prefix)), key=len)
        if not prefixes:
            if request.url.host in LOCAL:
                return await _send(transport, request)
            unanswered.append(url)
            raise httpx.ConnectError(f"no test answers for {url}: UPSTREAMS", request=request)
        answer = self[prefixes[-1]]
        answer = await settle(answer(request)) if callable(answer) else answer
        is_whole = isinstance(answer, httpx.Response)
        return answer if is_whole else httpx.Response(200, json=answer, request=request)
