"""Other services, as a handler asks them: a failure there is a 502 or a 504, no mistake of ours."""

from typing import Annotated

import httpx
from fastapi import Depends

from kernel.errors import ServiceError
from kernel.http.dependencies import opened

Http = Annotated[httpx.AsyncClient, Depends(opened(httpx.AsyncClient))]
"""The service's client for HTTP. What a handler does not catch of its failures, `raise_for_status`
included, is a 502 or, of one that took too long, a 504."""

# A URL or a request that is none is the code's mistake.
OURS = httpx.UnsupportedProtocol, httpx.LocalProtocolError


class BadGateway(ServiceError):
    status = 502


class GatewayTimeout(ServiceError):
    status = 504


def upstream_failure(error: httpx.HTTPError) -> ServiceError | None:
    """The answer for what another service has failed to do (RFC 9110 §15.6.3, §15.6.5)."""
    if isinstance(error, OURS):
        return None
    if isinstance(error, httpx.TimeoutException):
        return GatewayTimeout("another service did not answer in time")
    if isinstance(error, httpx.HTTPStatusError):
        return BadGateway("another service answered with an error")
    return BadGateway("another service could not be asked")


def request_fields(error: httpx.HTTPError) -> dict[str, object]:
    """What a log line may tell of the request: its path and query may hold a secret."""
    try:
        told: dict[str, object] = {"host": error.request.url.host}
    except RuntimeError:  # it has no request
        return {}
    answer = error.response if isinstance(error, httpx.HTTPStatusError) else None
    return told | ({"answer": answer.status_code} if answer else {})
