"""Connections to Postgres, with every wait on them bounded."""

import asyncio
import os
from functools import partial

from kernel.data.driver import Connection
from kernel.data.hosts import servers_of
from kernel.data.outages import Outages
from kernel.data.poolers import UnfitConnection, explain, verify
from kernel.data.sqlstate import UNREACHABLE
from kernel.driver_errors import DRIVER_ERRORS
from kernel.settings import Settings


async def connect(
    url: str, settings: Settings, outages: Outages, *, name: str, read_only: bool = False
) -> Connection:
    """Open one connection, which pg_stat_activity shows under the name with its pool and our
    process id, and check that it has what it asked for.

    Raises:
        Unavailable: whatever the reason. The causes are unalike (refused, no such host or socket,
            starting up, too many connections), and none is the client's doing.
    """
    seconds, servers = settings.statement_timeout, servers_of(url)
    asked = _server_settings(settings, f"{name} {outages.pool}", read_only=read_only)

    open_ = partial(
        servers.connect,
        read_only=read_only,
        timeout_seconds=settings.connect_timeout,
        # The server's own limit answers first; this one is for a server that is frozen.
        command_timeout=seconds + 1,
        connection_class=Connection,
        server_settings=asked,
    )
    try:
        connection: Connection = await open_()
        server = servers.good
        try:
            async with asyncio.timeout(settings.connect_timeout):
                await verify(connection, asked, open_, server)
        except BaseException:
            connection.terminate()
            raise
    except (*DRIVER_ERRORS, UnfitConnection, UnicodeError) as error:  # a host name that is none
        cause = explain(error)
        raise outages.unreachable(cause) from cause
    connection.is_left = servers.leaving(server)
    outages.end(UNREACHABLE)
    connection.outages, connection.is_read_only = outages, read_only
    connection.is_managed, connection.patience = read_only, seconds * 2
    return connection


def _server_settings(settings: Settings, name: str, *, read_only: bool) -> dict[str, str]:
    """What the server is to keep to on this connection; limits in milliseconds."""
    seconds, process = settings.statement_timeout, f" {os.getpid()}"
    return {
        # Of more than 63 bytes, the server would keep the first.
        "application_name": f"{name[: 63 - len(process)]}{process}",
        "timezone": "UTC",
        "statement_timeout": f"{seconds * 1000:.0f}",
        "lock_timeout": f"{settings.lock_timeout * 1000:.0f}",
        "idle_in_transaction_session_timeout": f"{seconds * 2000:.0f}",
        **({"default_transaction_read_only": "on"} if read_only else {}),
    }
