"""What every answer says of itself: whom it is for, who may store it, and how it is read."""

from collections.abc import Sequence
from enum import StrEnum

from starlette.types import Scope

from kernel.context import HEADER_NAMES, current_context

Header = tuple[bytes, bytes]
NO_SNIFFING: Header = (b"x-content-type-options", b"nosniff")  # Fetch standard §3.6
# Shown again to its caller only after a look whether it has changed (RFC 9111 §5.2.2).
PRIVATE: Header = (b"cache-control", b"private, no-cache")
NEVER_STORED: Header = (b"cache-control", b"no-store")
ADDED = {NO_SNIFFING[0], PRIVATE[0], b"vary"}


class Audience(StrEnum):
    """For whom the answers of an operation are."""

    EVERYBODY = "everybody"
    ANYBODY = "anybody"  # who may be known, and then has another answer
    CALLER = "caller"
    CALLER_ONCE = "caller, once"  # a secret


OPEN = {Audience.EVERYBODY, Audience.ANYBODY}


class AnswerHeaders:
    """Adds the headers; `varying` are those in which a request may have its credential."""

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
        """The headers of an answer, and those that it has to have; its own ones stay."""
        audience = getattr(scope.get("route"), "audience", Audience.EVERYBODY)
        # Whatever asks for the credential, the answer may depend on it.
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
        merged, own = [*headers], {name for name, _ in headers}
        for name, value in added:
            if name == b"vary" and name in own:
                merged = [header for header in merged if header[0] != name]
                merged.append((name, self._extended(headers)))
            elif name not in own:
                merged.append((name, value))
        return merged

    def _extended(self, headers: Sequence[Header]) -> bytes:
        """Vary with the answer's own names in front (RFC 9110 §12.5.5)."""
        lines = b",".join(value for name, value in headers if name == b"vary")
        own = [name.strip() for name in lines.split(b",") if name.strip()]
        known = {name.lower() for name in own}
        if b"*" in known:
            return b"*"
        return b", ".join([*own, *(n for n in self._varying if n.lower() not in known)])
