"""The dependencies that an operation declares in its signature, by their types."""

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Annotated, TypeVar

from fastapi import Depends, Path, Query
from pydantic import Field
from starlette.requests import HTTPConnection

from kernel.context import HEADER_NAMES, SESSION
from kernel.data.models import BIGINT_MAX, Text
from kernel.data.paging import Pager
from kernel.data.reader import ReadPool
from kernel.data.resources import Resources, resources_of
from kernel.data.session import WriteSession
from kernel.fast.inputs import PLAIN_INT
from kernel.identity.passwords import PasswordVault

T = TypeVar("T")
READS = {"GET", "HEAD"}
CURSOR = "The `next_cursor` of the page before; none is the first page."
NO_SESSION = "a GET has no session: it reads through Reader and cannot write"
NO_UNIT_OF_WORK = "a WebSocket has no session: it opens one for each change, with open_session()"
NO_BOUNDARY = "this operation has no session: its router is not the kernel's Router"


# PLAIN_INT comes last, or OpenAPI would not show the bounds as minimum and maximum.
Id = Annotated[int, Field(ge=1, le=BIGINT_MAX), PLAIN_INT, Path()]
"""The id of a row, in a path."""

Key = Annotated[Text, Path(max_length=200)]
"""The key of a row that is text, such as a slug, in a path."""

SEARCHED = (
    "Only rows that contain this; without three letters or digits in a row, that begin with it."
)
Search = Annotated[Text | None, Query(max_length=100, description=SEARCHED)]
"""The text that a list is searched for."""


async def get_session(connection: HTTPConnection) -> WriteSession:
    """The session of the request's unit of work.

    Raises:
        RuntimeError: in a GET or a WebSocket, which have none, or without the kernel's router.
    """
    session: WriteSession | None = connection.scope.get(SESSION)
    if session is None and connection.scope["type"] == "websocket":
        raise RuntimeError(NO_UNIT_OF_WORK)
    if session is None:
        is_read = connection.scope["method"] in READS
        raise RuntimeError(NO_SESSION if is_read else NO_BOUNDARY)
    return session


async def get_reader(connection: HTTPConnection) -> ReadPool:
    """The service's reader. It is on the primary in a write, and for a client that sends
    `Cache-Control: no-cache`, since a replica is a kind of cache (RFC 9111 §5.2.1.4)."""
    resources, scope = resources_of(connection.app), connection.scope
    if scope.get("method", "GET") not in READS:
        return resources.primary
    # Most requests have no such header, and are not parsed for it.
    if b"cache-control" in scope[HEADER_NAMES] and _has_no_cache(connection):
        return resources.primary
    return resources.reader


def _has_no_cache(connection: HTTPConnection) -> bool:
    directives = ",".join(connection.headers.getlist("cache-control")).lower().split(",")
    return "no-cache" in map(str.strip, directives)


async def get_resources(connection: HTTPConnection) -> Resources:
    """All that the service has opened."""
    return resources_of(connection.app)


async def _pager(
    connection: HTTPConnection,
    limit: Annotated[int, Field(ge=1, le=100), PLAIN_INT, Query(description="Rows, at most.")] = 50,
    cursor: Annotated[str | None, Query(max_length=4096, description=CURSOR)] = None,
) -> Pager:
    return Pager(limit, cursor, resources_of(connection.app).mac_keys, connection.scope)


@cache
def opened(kind: type[T]) -> Callable[[HTTPConnection], Awaitable[T]]:
    """A dependency that gives the object of this class among the resources (`resources.put`)."""

    async def get(connection: HTTPConnection) -> T:
        return resources_of(connection.app).get(kind)

    return get


Session = Annotated[WriteSession, Depends(get_session)]
Reader = Annotated[ReadPool, Depends(get_reader)]
Paging = Annotated[Pager, Depends(_pager)]
Passwords = Annotated[PasswordVault, Depends(opened(PasswordVault))]
Service = Annotated[Resources, Depends(get_resources)]
