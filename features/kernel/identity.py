"""Who is calling: `CurrentUser`, a `Principal`.

The kernel knows what a principal is and where a request carries its credential. The slices that can
tell whose it is are wired in by `service.py`, as `app.state.authenticators`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer

from features.kernel.context import current_context
from features.kernel.errors import Forbidden, Unauthorized
from features.kernel.reader import Rows, SessionRows

Role = Literal["member", "admin"]
Scheme = Literal["bearer", "api_key"]


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

_bearer = OAuth2PasswordBearer(tokenUrl="auth/token", auto_error=False)
_api_key = APIKeyHeader(name="X-API-Key", auto_error=False)


async def get_credential(
    token: Annotated[str | None, Depends(_bearer)], key: Annotated[str | None, Depends(_api_key)]
) -> tuple[Scheme, str] | None:
    """The request's credential, by its scheme. A request with two is a mistake, and has none."""
    if token and not key:
        return "bearer", token
    return ("api_key", key) if key and not token else None


Credential = Annotated[tuple[Scheme, str] | None, Depends(get_credential)]


async def find_principal(request: Request) -> Principal | None:
    """The caller, or None for a request without a valid credential of an active account.

    The account is looked up anew in each request: a write looks in its own transaction, a read
    asks the reader.
    """
    if len(request.headers.getlist("authorization")) > 1:
        return None
    credential = await get_credential(await _bearer(request), await _api_key(request))
    if credential is None:
        return None
    scheme, secret = credential
    authenticators: dict[Scheme, Authenticator] = request.app.state.authenticators
    session = getattr(request.state, "session", None)
    rows: Rows = SessionRows(session) if session else request.app.state.reader
    return await authenticators[scheme](rows, secret) if scheme in authenticators else None


async def get_principal(request: Request, _: Credential) -> Principal:
    """The caller.

    Raises:
        Unauthorized: no credential, one that is not valid, or an account that is not active.
    """
    # The boundary has looked already when it needs to know whose idempotency key it has.
    principal = getattr(request.state, "principal", None) or await find_principal(request)
    if principal is None:
        raise Unauthorized("sign in to do this")
    if context := current_context():
        context.user_id = principal.id
    return principal


CurrentUser = Annotated[Principal, Depends(get_principal)]


def require(role: Role) -> Callable[[Principal], Awaitable[Principal]]:
    """A dependency that lets only callers with the role pass; it raises Forbidden for others."""

    async def check(me: CurrentUser) -> Principal:
        if me.role != role:
            raise Forbidden(f"only for the role {role}")
        return me

    return check


require_admin = require("admin")
Admin = Annotated[Principal, Depends(require_admin)]
