"""Who is calling: `CurrentUser`, a `Principal`.

The kernel knows what a principal is, and `service.py` wires in the slice that finds one.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer

from features.kernel.context import current_context
from features.kernel.errors import Forbidden, Unauthorized
from features.kernel.reader import Rows, SessionRows

Role = Literal["member", "admin"]


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: the id of an active account, and its role."""

    id: int
    role: Role

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


Authenticator = Callable[[Rows, str], Awaitable[Principal | None]]
"""Finds the principal of a bearer token, or None; `app.state.authenticate` holds it."""

_bearer = OAuth2PasswordBearer(tokenUrl="auth/token", auto_error=False)
Token = Annotated[str | None, Depends(_bearer)]


async def find_principal(request: Request) -> Principal | None:
    """The caller, or None for a request without a valid credential of an active account.

    The account is looked up anew in each request: a write looks in its own transaction, a read
    asks the reader.
    """
    token = await _bearer(request)
    if token is None:
        return None
    session = getattr(request.state, "session", None)
    rows: Rows = SessionRows(session) if session else request.app.state.reader
    authenticate: Authenticator = request.app.state.authenticate
    return await authenticate(rows, token)


async def get_principal(request: Request, _: Token) -> Principal:
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


async def get_admin(me: CurrentUser) -> Principal:
    if not me.is_admin:
        raise Forbidden("only an admin may do this")
    return me


Admin = Annotated[Principal, Depends(get_admin)]
