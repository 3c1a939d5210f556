"""Who is calling: `CurrentUser`, a `Principal`.

The kernel knows what a principal is and where a request carries its credential. The slices that can
tell whose it is are wired in by `service.py`, as `app.state.authenticators`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer

from kernel.context import current_context
from kernel.data.snapshots import Rows
from kernel.errors import Forbidden, Unauthorized
from kernel.scope import HEADER_NAMES, PRINCIPAL, SESSION

Role = Literal["member", "admin"]
Scheme = Literal["bearer", "api_key"]
SCHEMES = (OAuth2PasswordBearer(tokenUrl="auth/token"), APIKeyHeader(name="X-API-Key"))
"""How a request may carry its credential, for OpenAPI."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: the id of an active account, and its role."""

    id: int
    role: Role

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


Authenticator = Callable[[Rows, str], Awaitable[Principal | None]]
"""Finds the principal whose credential this is, in one query, or None."""


def read_credential(request: Request) -> tuple[Scheme, str] | None:
    """The request's credential, by its scheme. A request with two is a mistake, and has none."""
    given = [value for name, value in request.scope["headers"] if name == b"authorization"]
    scheme, _, token = (
        given[0].decode("latin-1").partition(" ") if len(given) == 1 else ("", "", "")
    )
    is_bearer = scheme.lower() == "bearer"
    key = request.headers["x-api-key"] if b"x-api-key" in request.scope[HEADER_NAMES] else ""
    if len(given) > 1 or (key and is_bearer):
        return None
    if key:
        return "api_key", key
    return ("bearer", token) if is_bearer and token else None


async def find_principal(request: Request) -> Principal | None:
    """The caller, or None for a request without a valid credential of an active account.

    The account is looked up anew in each request: a write looks in its own transaction, a read
    asks the reader.
    """
    credential = read_credential(request)
    if credential is None:
        return None
    scheme, secret = credential
    authenticators: dict[Scheme, Authenticator] = request.app.state.authenticators
    rows: Rows = request.scope.get(SESSION) or request.app.state.reader
    return await authenticators[scheme](rows, secret) if scheme in authenticators else None


async def get_principal(request: Request) -> Principal:
    """The caller.

    Raises:
        Unauthorized: no credential, one that is not valid, or an account that is not active.
    """
    # The boundary has looked already when it needs to know whose idempotency key it has.
    principal = request.scope.get(PRINCIPAL) or await find_principal(request)
    if principal is None:
        raise Unauthorized("sign in to do this")
    request.scope[PRINCIPAL] = principal
    if context := current_context():
        context.user_id = principal.id
    return principal


CurrentUser = Annotated[Principal, Depends(get_principal)]


@dataclass(frozen=True)
class RoleCheck:
    """A dependency that lets only callers with the role pass; it raises Forbidden for others."""

    role: Role

    async def __call__(self, request: Request) -> Principal:
        me = await get_principal(request)
        if me.role != self.role:
            raise Forbidden(f"only for the role {self.role}")
        return me


require = RoleCheck
require_admin = require("admin")
Admin = Annotated[Principal, Depends(require_admin)]
