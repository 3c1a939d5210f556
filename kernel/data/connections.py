"""Connections to PostgreSQL, with a limit on every wait."""

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
    """Open one connection, and check that the server applied its settings. pg_stat_activity shows
    it as `name`, pool and process id.

    Raises:
        Unavailable: whatever the cause: refused, no such host or socket, starting up, too many
            connections. None of them is the client's mistake.
    """
    seconds, servers = settings.statement_timeout, servers_of(url)
    server_settings = _server_settings(settings, f"{name} {outages.pool}", read_only=read_only)

    open_ = partial(
        servers.connect,
        read_only=read_only,
        timeout_seconds=settings.connect_timeout,
        # The server's own limit comes first; this one is for a server that is frozen.
        command_timeout=seconds + 1,
        connection_class=Connection,
        server_settings=server_settings,
    )
    try:
        connection: Connection = await open_()
        server = servers.good
        try:
            async with asyncio.timeout(settings.connect_timeout):
                await verify(connection, server_settings, open_, server)
        except BaseException:
            connection.terminate()
            raise
    except (*DRIVER_ERRORS, UnfitConnection, UnicodeError) as error:  # of an invalid host name
        cause = explain(error)
        raise outages.unreachable(cause) from cause
    connection.is_left = servers.leaving(server)
    outages.end(UNREACHABLE)
    connection.outages, connection.is_read_only = outages, read_only
    connection.is_managed, connection.patience = read_only, seconds * 2
    return connection


def _server_settings(settings: Settings, name: str, *, read_only: bool) -> dict[str, str]:
    """The startup parameters of a connection; limits in milliseconds."""
    seconds, process = settings.statement_timeout, f" {os.getpid()}"
    return {
        # The server would cut it at 63 bytes, and the process id with it.
        "application_name": f"{name[: 63 - len(process)]}{process}",
        "timezone": "UTC",
        "statement_timeout": f"{seconds * 1000:.0f}",
        "lock_timeout": f"{settings.lock_timeout * 1000:.0f}",
        "idle_in_transaction_session_timeout": f"{seconds * 2000:.0f}",
        **({"default_transaction_read_only": "on"} if read_only else {}),
    }
