"""The resources of a running service: settings, connections, and what its slices have opened."""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kernel.data.reader import ReadPool
from kernel.data.readiness import SchemaReader
from kernel.data.writer import Writer
from kernel.settings import Settings

T = TypeVar("T")
NOT_RUNNING = "the service is not running: its connections are open within its lifespan"


class HasState(Protocol):
    """An application of FastAPI's or Starlette's."""

    @property
    def state(self) -> Any: ...


class Resources:
    """What is opened at the start of a service and closed at its end.

    `name` and `version` are the service's. The connections exist while the lifespan runs, and
    using one outside of it raises RuntimeError. A slice opens resources in its router's lifespan,
    puts them here with `put`, and gets them by their class.
    """

    writer: Writer
    reader: ReadPool
    primary: ReadPool  # for reads that must not lag behind: who calls, and whether they still may
    schema: SchemaReader

    def __init__(self, name: str, version: str, settings: Settings) -> None:
        self.name, self.version, self.settings = name, version, settings
        self.signing_secret = (
            settings.signing_secret or ""
        )  # in development without one, it is generated
        self.is_draining = False  # shutting down: other instances serve instead
        self._own: dict[type, Any] = {}

    if not TYPE_CHECKING:  # so that mypy still refuses a misspelt name

        def __getattr__(self, name):
            is_declared = name in type(self).__annotations__
            raise RuntimeError(NOT_RUNNING) if is_declared else AttributeError(name)

    @property
    def slug(self) -> str:
        """The name for other programs: lower case, with `-` for spaces."""
        return self.name.lower().replace(" ", "-")

    @cached_property
    def mac_keys(self) -> tuple[bytes, ...]:
        """The keys that sign cursors and the fingerprints of requests, 32 bytes each: the present
        one, and that of `old_signing_secret`, which is still accepted."""
        old = self.settings.old_signing_secret
        secrets = [self.signing_secret, *([old] if old else [])]
        return tuple(hashlib.sha256(b"mac" + secret.encode()).digest() for secret in secrets)

    def derive_token(self, purpose: str, seed: str) -> str:
        """A one-time token of 256 bits, base64url, that only this service can derive from a random
        seed. It is derived again when its mail is sent again, so store the seed and the token's
        digest, and never the token. With a new signing secret it is another one, so store the
        digest again before each attempt."""
        mac = hmac.digest(self.mac_keys[0], f"{purpose} {seed}".encode(), "sha256")
        return urlsafe_b64encode(mac).decode().rstrip("=")

    def put(self, resource: T, kind: type[T] | None = None) -> None:
        """Keep a resource while the service runs, under its class or a base class `kind`:
        `put(FakeMailer(), Mailer)`.

        Raises:
            RuntimeError: there is one under this class.
        """
        kind = kind or type(resource)
        if kind in self._own:
            raise RuntimeError(
                f"there is a {kind.__name__} already: put it under a class of its own"
            )
        self._own[kind] = resource

    @staticmethod
    def render_metrics(accept: str) -> tuple[bytes, str]:
        """The metrics of all workers, in a format that the `Accept` header allows, and its media
        type."""
        from kernel.exposition import render  # noqa: PLC0415  # a command need not import it

        return render(accept)

    @contextmanager
    def until_closed(self) -> Iterator[None]:
        """Remove after the block what was put here within it."""
        before = {**self._own}
        try:
            yield
        finally:
            self._own = before

    def get(self, kind: type[T]) -> T:
        """The resource that was put here under this class.

        Raises:
            RuntimeError: there is none.
        """
        if kind not in self._own:
            raise RuntimeError(
                f"no {kind.__name__} is open: put() one here in its slice's lifespan"
            )
        resource: T = self._own[kind]
        return resource


def resources_of(app: HasState) -> Resources:
    """The resources of an application that `build_app` has made."""
    resources: Resources = app.state.resources
    return resources
