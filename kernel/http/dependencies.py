"""What an operation asks for in its signature, by the name of its type."""

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Annotated, TypeVar

from fastapi import Depends, Path, Query
from pydantic import Field
from starlette.requests import HTTPConnection

from kernel.context import SESSION
from kernel.data.models import BIGINT_MAX, Text
from kernel.data.paging import Pager
from kernel.data.reader import ReadPool
from kernel.data.resources import Resources, resources_of
from kernel.data.session import WriteSession
from kernel.fast.ids import PLAIN_INT
from kernel.identity.passwords import PasswordVault

T = TypeVar("T")
NO_SESSION = "a GET has no session: it reads through Reader and cannot write"
NO_UNIT_OF_WORK = "a WebSocket has no session: it opens one for each change, with open_session()"
NO_BOUNDARY = "this operation has no session: its router is no Router of the kernel's"


# Behind the bounds, PLAIN_INT, or OpenAPI would not show them as minimum and maximum.
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
        is_read = connection.scope["method"] in {"GET", "HEAD"}
        raise RuntimeError(NO_SESSION if is_read else NO_BOUNDARY)
    return session


async def get_reader(connection: HTTPConnection) -> ReadPool:
    """The service's reader."""
    return resources_of(connection.app).reader


async def get_resources(connection: HTTPConnection) -> Resources:
    """All that the service has opened."""
    return resources_of(connection.app)


async def _pager(
    connection: HTTPConnection,
    limit: Annotated[int, Field(ge=1, le=100), PLAIN_INT, Query(description="Rows, at most.")] = 50,
    cursor: Annotated[str | None, Query(max_length=4096, description="`next_cursor`.")] = None,
) -> Pager:
    return Pager(limit, cursor, resources_of(connection.app).mac_keys, connection.scope)


@cache
def opened(kind: type[T]) -> Callable[[HTTPConnection], Awaitable[T]]:
    """A dependency: what a slice has put into the resources, by its class."""

    async def get(connection: HTTPConnection) -> T:
        return resources_of(connection.app).get(kind)

    return get


Session = Annotated[WriteSession, Depends(get_session)]
Reader = Annotated[ReadPool, Depends(get_reader)]
Paging = Annotated[Pager, Depends(_pager)]
Passwords = Annotated[PasswordVault, Depends(opened(PasswordVault))]
Service = Annotated[Resources, Depends(get_resources)]
