"""Who is calling: a `Principal`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kernel.data.resources import Resources
from kernel.data.snapshots import Rows

ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: the id of an active account, and its role."""

    id: int
    role: str

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN


Authenticator = Callable[[Resources, Rows, str], Awaitable[Principal | None]]
"""Finds the principal whose credential this is, in one query, or None."""
