"""Error responses as exceptions: raise one anywhere, in a handler or in what it calls."""

import copyreg
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, ClassVar

# RFC 9110 §15; HTTPStatus had other names for these before Python 3.13.
RENAMED = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
TITLES = {status.value: status.phrase for status in HTTPStatus} | RENAMED

UNKNOWN = "the outcome is unknown; check it before you try again"
AT_ONCE = "too many of your requests are under way; try again when they have ended"


def title_of(status: int) -> str:
    """The reason phrase of a status (RFC 9110 §15 and the IANA registry), or "Error"."""
    return TITLES.get(status, "Error")


class CannotStart(RuntimeError):
    """The service, or a command, cannot start; the message says why and what to do."""


class ServiceError(Exception):
    """An error response; `extras` become further members of its body.

    A subclass sets its status: `class PaymentRequired(ServiceError): status = 402`.

    Raises:
        TypeError: a subclass's status is not from 400 to 599.
    """

    status: ClassVar[int] = 500
    default_headers: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not 400 <= cls.status <= 599:
            raise TypeError(f"{cls.__name__}: the status of an error is from 400 to 599")

    def __init__(
        self, message: str, *, headers: Mapping[str, str] | None = None, **extras: object
    ) -> None:
        super().__init__(message)
        self.message = message
        self.headers = {**self.default_headers, **(headers or {})}
        self.extras = extras

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy restores the attributes and skips `__init__`, which may have other parameters in
        # a subclass (pickle, `__reduce__`).
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # pickle's own, which typeshed has not


class BadRequest(ServiceError):
    status = 400


class Unauthorized(ServiceError):
    """A 401. Without a `WWW-Authenticate` header of its own, it gets one with the service's
    credential schemes."""

    status = 401


class Forbidden(ServiceError):
    status = 403


class NotFound(ServiceError):
    """A 404: "<what> <key> not found". The message has at most 64 characters of the key."""

    status = 404

    def __init__(self, what: str, key: object) -> None:
        text = str(key)
        super().__init__(f"{what} {text if len(text) <= 64 else f'{text[:64]}…'} not found")


class Conflict(ServiceError):
    status = 409


class PreconditionFailed(ServiceError):
    status = 412


class UnsupportedMediaType(ServiceError):
    status = 415


class Unprocessable(ServiceError):
    status = 422


class TooManyRequests(ServiceError):
    status = 429


class TooManyAtOnce(TooManyRequests):
    """A caller has its maximum of requests under way, or of a pool's connections.

    It is not a 503: load balancers take a worker that answers 503 out of rotation, so one caller
    could stop the service for everybody.
    """

    default_headers = MappingProxyType({"Retry-After": "1"})

    def __init__(self, message: str = AT_ONCE, **options: Any) -> None:
        super().__init__(message, **options)


class Unavailable(ServiceError):
    status = 503
    default_headers = MappingProxyType({"Retry-After": "1"})


class DatabaseUnavailable(Unavailable):
    """A 503 whose cause is logged where it happens; its extra `reason` names that cause."""


class OutcomeUnknown(ServiceError):
    """A 503 without Retry-After: a client that retries without a check may do the work twice."""

    status = 503

    def __init__(self, message: str = UNKNOWN, **options: Any) -> None:
        super().__init__(message, **options)
