"""`CurrentUser` and other kinds of callers, by the credential schemes that the service takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from fastapi import Depends
from fastapi.security import APIKeyCookie, APIKeyHeader, OAuth2PasswordBearer
from starlette.requests import HTTPConnection

from kernel.context import HEADER_NAMES, PRINCIPAL, SESSION, current_context
from kernel.data.resources import HasState, resources_of
from kernel.data.session import WriteSession
from kernel.errors import Forbidden, TooManyAtOnce, Unauthorized
from kernel.identity.principal import ADMIN, Authenticator, Principal
from kernel.metrics import REFUSED

CHALLENGE = "WWW-Authenticate"
NOBODY, SEVERAL = "sign in to do this", "a request should have one credential, and not several"


@dataclass(frozen=True)
class CredentialScheme:
    """A way to send a credential with a request, and how to find its owner.

    `security` is FastAPI's security scheme, for OpenAPI. `read` returns all credentials of this
    kind in a request or a WebSocket's handshake: mostly an empty list.
    """

    security: Callable[..., Any]
    read: Callable[[HTTPConnection], Sequence[str]]
    authenticate: Authenticator

    @classmethod
    def bearer(cls, token_url: str, authenticate: Authenticator) -> Self:
        """`Authorization: Bearer …` (RFC 6750). OpenAPI tells clients to get tokens at `token_url`;
        it may be the name of an operation, whose path is then used."""
        return cls(OAuth2PasswordBearer(token_url), _bearer_tokens, authenticate)

    @classmethod
    def header(cls, header: str, authenticate: Authenticator) -> Self:
        """A key in a header of its own, such as `X-API-Key`."""
        name = header.lower().encode()

        def read(connection: HTTPConnection) -> Sequence[str]:
            if name not in connection.scope[HEADER_NAMES]:
                return ()
            values = connection.headers.getlist(header)
            # An empty value is none. Of two values, another reader may use the other one.
            return values if len(values) > 1 else [value for value in values if value]

        return cls(APIKeyHeader(name=header, scheme_name=header), read, authenticate)


@dataclass(frozen=True)
class Credentials:
    """The schemes that a service takes."""

    schemes: tuple[CredentialScheme, ...]


def _bearer_tokens(connection: HTTPConnection) -> Sequence[str]:
    if b"authorization" not in connection.scope[HEADER_NAMES]:
        return ()
    values = connection.headers.getlist("authorization")
    if len(values) > 1:
        return values  # ambiguous: they may be of different callers
    scheme, _, token = values[0].partition(" ")
    return [token] if scheme.lower() == "bearer" and token else ()


def challenges(app: HasState) -> list[str]:
    """The challenges of a 401, one for each of the service's schemes, as FastAPI's own 401 has them
    (its manual, "How to use old 403 authentication error status codes")."""
    schemes = resources_of(app).get(Credentials).schemes
    makers = [getattr(one.security, "make_not_authenticated_error", None) for one in schemes]
    responses = [maker().headers or {} for maker in makers if maker]
    return [*dict.fromkeys(headers[CHALLENGE] for headers in responses if CHALLENGE in headers)]


async def find_principal(connection: HTTPConnection) -> Principal | None:
    """The caller, or None for a request without a valid credential of an active account.

    A request with two credentials counts as one without any. The account is looked up in each
    request, on the primary: a replica may not know yet that an account or a sign-in has ended. A
    write that holds a connection looks it up in its own transaction. Another one takes none for
    this, so that it holds none while it hashes a password, say.

    Raises:
        TypeError: a scheme's `read` has returned a text instead of a list.
    """
    credentials = _credentials(connection)
    if len(credentials) != 1:
        return None
    ((scheme, credential),) = credentials
    resources = resources_of(connection.app)
    session: WriteSession | None = connection.scope.get(SESSION)
    if session is None or not session.unit.holds_connection:
        return await scheme.authenticate(resources, resources.primary, credential)
    lookup = scheme.authenticate(resources, session, credential)
    return await (session.seen.looking_away(lookup) if session.seen else lookup)


def _credentials(connection: HTTPConnection) -> list[tuple[CredentialScheme, str]]:
    pairs: list[tuple[CredentialScheme, str]] = []
    is_cross_site = connection.scope["type"] == "websocket" and _is_cross_site(connection)
    for scheme in resources_of(connection.app).get(Credentials).schemes:
        if is_cross_site and isinstance(scheme.security, APIKeyCookie):
            continue
        credentials = scheme.read(connection)
        if isinstance(credentials, str):
            raise TypeError("read() of a credential scheme should return a list, and not a text")
        pairs += [(scheme, credential) for credential in credentials]
    return pairs


def has_credential(connection: HTTPConnection) -> bool:
    """Whether the request has a credential, valid or not."""
    return bool(_credentials(connection))


async def note_principal(connection: HTTPConnection) -> Principal | None:
    """The caller, as `find_principal` finds it, noted for the log and for whoever asks again.

    Raises:
        TooManyAtOnce: the caller has as many requests in flight as it may have.
        OverLimit: the caller is over the rate limit.
    """
    # The boundary has found it already if the request has an idempotency key.
    principal = connection.scope.get(PRINCIPAL) or await find_principal(connection)
    connection.scope[PRINCIPAL] = principal
    if context := current_context():
        limiter = context.rate_limiter
        if principal:
            context.user_id = principal.id
            if context.counts_for is not None and not context.in_flight.count(context):
                REFUSED.add(1, "in_flight")
                raise TooManyAtOnce
            if limiter:
                await limiter.count_account(context, principal.id)
        elif limiter:
            limiter.forget(context)
    return principal


def _is_cross_site(connection: HTTPConnection) -> bool:
    """Whether a page of another origin opens the WebSocket: browsers allow that, and send cookies
    (RFC 6455 §10.2)."""
    headers = connection.headers
    return "origin" in headers and headers["origin"].partition("://")[2] != headers.get("host")


async def get_principal(connection: HTTPConnection) -> Principal:
    """The caller.

    Raises:
        Unauthorized: no credential, several, one that is not valid, or an account that is not
            active.
    """
    principal = await note_principal(connection)
    if principal is None:
        raise Unauthorized(SEVERAL if len(_credentials(connection)) > 1 else NOBODY)
    return principal


async def get_viewer(connection: HTTPConnection) -> Principal | None:
    """The caller, or None for a request without any credential.

    Raises:
        Unauthorized: there is one, and it is not valid.
    """
    return await get_principal(connection) if has_credential(connection) else None


async def get_person(connection: HTTPConnection) -> Principal:
    """The caller, who has signed in with a password.

    Raises:
        Forbidden: the credential is another one, such as an API key, which must not create anything
            that outlives it.
    """
    me = await get_principal(connection)
    if me.sign_in is None:
        raise Forbidden("only for a person who has signed in with a password")
    return me


@dataclass(frozen=True)
class RoleCheck:
    """A dependency that lets only callers with one of the roles pass."""

    roles: tuple[str, ...]

    async def __call__(self, connection: HTTPConnection) -> Principal:
        """The caller.

        Raises:
            Forbidden: the caller has another role.
        """
        me = await get_principal(connection)
        if me.role not in self.roles:
            one = len(self.roles) == 1
            raise Forbidden(f"only for the role{'' if one else 's'} {', '.join(self.roles)}")
        return me


def require(*roles: str) -> RoleCheck:
    """A dependency for callers with one of these roles only; "admin" has to be named as well.
    `Accountant = Annotated[Principal, Depends(require("accountant", "admin"))]`.

    Raises:
        ValueError: no role is named.
    """
    if not roles:
        raise ValueError("require() needs at least one role")
    return RoleCheck(roles)


require_admin = require(ADMIN)
CurrentUser = Annotated[Principal, Depends(get_principal)]
Person = Annotated[Principal, Depends(get_person)]
Viewer = Annotated[Principal | None, Depends(get_viewer)]
Admin = Annotated[Principal, Depends(require_admin)]
