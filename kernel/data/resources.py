"""What a running service has: its settings, its connections, and what its slices have opened."""

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

    `name` and `version` are the service's. The connections are there while the lifespan runs. What
    a slice opens in its router's lifespan it puts here, and finds here by its class.
    """

    writer: Writer
    reader: ReadPool
    primary: ReadPool  # what must not be a replica's word: who calls, and whether they still may
    schema: SchemaReader

    def __init__(self, name: str, version: str, settings: Settings) -> None:
        self.name, self.version, self.settings = name, version, settings
        self.signing_secret = settings.signing_secret or ""  # or one that is made in development
        self.is_draining = False  # it has been told to end, and other instances serve instead
        self._own: dict[type, Any] = {}

    if not TYPE_CHECKING:  # or a misspelt name would pass mypy

        def __getattr__(self, name):
            known = name in type(self).__annotations__
            raise RuntimeError(NOT_RUNNING) if known else AttributeError(name)

    @property
    def slug(self) -> str:
        """The name as other programs read it, in small letters."""
        return self.name.lower().replace(" ", "-")

    @cached_property
    def mac_keys(self) -> tuple[bytes, ...]:
        """What cursors and the fingerprints of requests are signed with; behind it, what they were
        signed with before the secret was changed, which is still good."""
        old = self.settings.old_signing_secret
        secrets = [self.signing_secret, *([old] if old else [])]
        return tuple(hashlib.sha256(b"mac" + secret.encode()).digest() for secret in secrets)

    def derive_token(self, purpose: str, seed: str) -> str:
        """A one-time token, 256 bits, that only this service can make of a random seed, and makes
        again when what carries it is sent again. So the seed may be kept, and the token need not
        be: its digest is enough."""
        mac = hmac.digest(self.mac_keys[0], f"{purpose} {seed}".encode(), "sha256")
        return urlsafe_b64encode(mac).decode().rstrip("=")

    def put(self, resource: T, kind: type[T] | None = None) -> None:
        """Keep something while the service runs, to be found by its class, or by another one that
        it is of: `put(FakeMailer(), Mailer)`.

        Raises:
            RuntimeError: there is one of this class.
        """
        kind = kind or type(resource)
        if kind in self._own:
            raise RuntimeError(
                f"there is a {kind.__name__} already: put it under a class of its own"
            )
        self._own[kind] = resource

    @staticmethod
    def render_metrics(accept: str) -> tuple[bytes, str]:
        """What all workers have counted, in the form that a scraper accepts, and its media type."""
        from kernel.exposition import render  # noqa: PLC0415  # a command need not import it

        return render(accept)

    @contextmanager
    def until_closed(self) -> Iterator[None]:
        """Forget at the end what is put here within the block."""
        before = {**self._own}
        try:
            yield
        finally:
            self._own = before

    def get(self, kind: type[T]) -> T:
        """What was put here of this class.

        Raises:
            RuntimeError: nothing was.
        """
        if kind not in self._own:
            raise RuntimeError(f"no {kind.__name__} is open: a slice puts it here in its lifespan")
        found: T = self._own[kind]
        return found


def resources_of(app: HasState) -> Resources:
    """The resources of an application that `build_app` has made."""
    resources: Resources = app.state.resources
    return resources
