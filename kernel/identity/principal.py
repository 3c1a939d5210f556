"""Who is calling: a `Principal`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

from kernel.data.resources import Resources
from kernel.data.snapshots import Rows

ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: the id of an active account, its role and, if it is a person who has signed in
    with a password, the id of the sign-in."""

    id: int
    role: str
    sign_in: UUID | None = field(default=None, repr=False)

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN


Authenticator = Callable[[Resources, Rows, str], Awaitable[Principal | None]]
"""Finds the owner of a credential in one query, or returns None."""
