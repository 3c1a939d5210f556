"""Headers of every response: who may store it, what it varies by, and no content sniffing."""

from collections.abc import Sequence
from enum import StrEnum

from starlette.types import Scope

from kernel.context import HEADER_NAMES, current_context

Header = tuple[bytes, bytes]
NO_SNIFFING: Header = (b"x-content-type-options", b"nosniff")  # Fetch standard §3.6
# Stored by the caller's own client alone, and used again after revalidation (RFC 9111 §5.2.2).
PRIVATE: Header = (b"cache-control", b"private, no-cache")
NEVER_STORED: Header = (b"cache-control", b"no-store")
ADDED = {NO_SNIFFING[0], PRIVATE[0], b"vary"}


class Audience(StrEnum):
    """Who gets the same response of an operation."""

    EVERYBODY = "everybody"
    ANYBODY = "anybody"  # a caller who is known may get another response
    CALLER = "caller"
    CALLER_ONCE = "caller, once"  # it holds a secret


OPEN = {Audience.EVERYBODY, Audience.ANYBODY}


class AnswerHeaders:
    """Adds the headers; `varying` are the request headers that may hold a credential."""

    def __init__(self, varying: Sequence[str]) -> None:
        self._credentials = frozenset(name.lower().encode() for name in varying)
        self._varying = [name.encode() for name in varying]
        vary = [(b"vary", b", ".join(self._varying))] if varying else []
        self._added = {
            Audience.EVERYBODY: [NO_SNIFFING],
            Audience.ANYBODY: [NO_SNIFFING, *vary],
            Audience.CALLER: [NO_SNIFFING, PRIVATE, *vary],
            Audience.CALLER_ONCE: [NO_SNIFFING, NEVER_STORED, *vary],
        }

    def of(self, scope: Scope, headers: Sequence[Header]) -> list[Header]:
        """The headers of a response with those that are missing; those that it has stay."""
        audience = getattr(scope.get("route"), "audience", Audience.EVERYBODY)
        # With a credential in the request, the response may depend on it, whatever has read it.
        if audience in OPEN and not self._credentials.isdisjoint(scope[HEADER_NAMES]):
            audience = Audience.CALLER
        if (context := current_context()) and context.holds_secret:
            audience = Audience.CALLER_ONCE
        added = self._added[audience]
        for name, _ in headers:
            if name in ADDED:
                return self._merged(headers, added)
        return [*headers, *added]

    def _merged(self, headers: Sequence[Header], added: Sequence[Header]) -> list[Header]:
        merged, names = [*headers], {name for name, _ in headers}
        for name, value in added:
            if name == b"vary" and name in names:
                merged = [header for header in merged if header[0] != name]
                merged.append((name, self._extended(headers)))
            elif name not in names:
                merged.append((name, value))
        return merged

    def _extended(self, headers: Sequence[Header]) -> bytes:
        """Vary, with the names that the response has already first (RFC 9110 §12.5.5)."""
        lines = b",".join(value for name, value in headers if name == b"vary")
        names = [name.strip() for name in lines.split(b",") if name.strip()]
        present = {name.lower() for name in names}
        if b"*" in present:
            return b"*"
        return b", ".join([*names, *(n for n in self._varying if n.lower() not in present)])
