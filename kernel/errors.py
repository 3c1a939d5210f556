"""The answers that are not a success, as exceptions: raise one anywhere, in a handler as well."""

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

UNKNOWN = "the outcome is unknown; look before you try again"
AT_ONCE = "too many of your requests are under way; try again when they are through"


def title_of(status: int) -> str:
    """The status in words, as RFC 9110 and the registry of status codes have it."""
    return TITLES.get(status, "Error")


class CannotStart(RuntimeError):
    """The service, or a command, cannot start; the message says why and what to do."""


class ServiceError(Exception):
    """An answer other than success; `extras` become further members of its body.

    A subclass says its status: `class PaymentRequired(ServiceError): status = 402`.
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
        # Whatever a subclass is made of, a copy has what was made of it (pickle, `__reduce__`).
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # pickle's own, which typeshed has not


class BadRequest(ServiceError):
    status = 400


class Unauthorized(ServiceError):
    """A 401; unless it says so itself, it names the credential schemes that the service takes."""

    status = 401


class Forbidden(ServiceError):
    status = 403


class NotFound(ServiceError):
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
    """A caller's own requests have all that one caller may have.

    It is no 503: balancers take a worker out for these, and so one caller would stop everybody.
    """

    default_headers = MappingProxyType({"Retry-After": "1"})

    def __init__(self, message: str = AT_ONCE, **options: Any) -> None:
        super().__init__(message, **options)


class Unavailable(ServiceError):
    status = 503
    default_headers = MappingProxyType({"Retry-After": "1"})


class DatabaseUnavailable(Unavailable):
    """A 503 whose cause is logged where it happens; `reason` tells which it is."""


class OutcomeUnknown(ServiceError):
    """A 503 without Retry-After: whoever tries again unseeing may do the work twice."""

    status = 503

    def __init__(self, message: str = UNKNOWN, **options: Any) -> None:
        super().__init__(message, **options)
