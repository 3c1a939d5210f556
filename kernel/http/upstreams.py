"""Calls to other services: what fails there is a 502 or a 504, and not a 500."""

from typing import Annotated

import httpx
from fastapi import Depends

from kernel.errors import ServiceError
from kernel.http.dependencies import opened

Http = Annotated[httpx.AsyncClient, Depends(opened(httpx.AsyncClient))]
"""The service's HTTP client. A failure that the handler does not catch, `raise_for_status`
included, is a 502, or a 504 after a timeout."""

# An invalid URL or request is a mistake in this service: a 500.
OWN_MISTAKES = httpx.UnsupportedProtocol, httpx.LocalProtocolError


class BadGateway(ServiceError):
    status = 502


class GatewayTimeout(ServiceError):
    status = 504


def upstream_failure(error: httpx.HTTPError) -> ServiceError | None:
    """The error for a failure of another service (RFC 9110 §15.6.3, §15.6.5); None for our own."""
    if isinstance(error, OWN_MISTAKES):
        return None
    if isinstance(error, httpx.TimeoutException):
        return GatewayTimeout("another service did not answer in time")
    if isinstance(error, httpx.HTTPStatusError):
        return BadGateway("another service answered with an error")
    return BadGateway("another service could not be reached")


def request_fields(error: httpx.HTTPError) -> dict[str, object]:
    """The log line's members about the request: not its path or query, which may hold a secret."""
    try:
        fields: dict[str, object] = {"host": error.request.url.host}
    except RuntimeError:  # it has no request
        return {}
    answer = error.response if isinstance(error, httpx.HTTPStatusError) else None
    return fields | ({"answer": answer.status_code} if answer else {})
