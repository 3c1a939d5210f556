"""Connections to Postgres, with every wait on them bounded."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from features.kernel.context import current_context
from features.kernel.errors import Unavailable
from features.kernel.settings import Settings
from features.kernel.sqlstate import UNAVAILABLE, is_disconnect

SessionMaker = async_sessionmaker[AsyncSession]
"""Makes sessions of their own, for what has to stay although the request fails, like a wrong
password that is counted: `async with sessions.begin() as aside`."""


async def connect(
    url: str, settings: Settings, *, read_only: bool = False, **options: Any
) -> "asyncpg.Connection[asyncpg.Record]":
    """Open one connection.

    Raises:
        Unavailable: whatever the reason. The causes are unalike (refused, no such host or socket,
            starting up, too many connections), and none is the client's doing.
    """
    seconds = settings.statement_timeout
    try:
        return await asyncpg.connect(
            url,
            timeout=settings.connect_timeout,
            # The server's own limit answers first; this one is for a server that is frozen.
            command_timeout=seconds + 1,
            server_settings={
                "application_name": "julienne",
                "timezone": "UTC",
                "statement_timeout": f"{seconds * 1000:.0f}",
                "lock_timeout": f"{settings.lock_timeout * 1000:.0f}",
                "idle_in_transaction_session_timeout": f"{seconds * 2000:.0f}",
                **({"default_transaction_read_only": "on"} if read_only else {}),
            },
            **options,
        )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(UNAVAILABLE) from error


@asynccontextmanager
async def open_sessions(
    url: str, settings: Settings, size: int, overflow: int
) -> AsyncIterator[SessionMaker]:
    """The maker of sessions of their own."""
    timeout = settings.pool_timeout
    limits = {"pool_size": size, "max_overflow": overflow, "pool_timeout": timeout}
    engine = make_engine(url, settings, **limits)
    try:
        yield async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
    finally:
        await engine.dispose()


def make_engine(url: str, settings: Settings, **options: Any) -> AsyncEngine:
    """SQLAlchemy's engine, which connects when it is first used, not before."""

    async def open_connection(*_: Any, **__: Any) -> "asyncpg.Connection[asyncpg.Record]":
        return await connect(url, settings)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=open_connection,
        hide_parameters=True,
        **options,
    )
    event.listen(engine.sync_engine, "handle_error", _drop_pool_on_disconnect)
    event.listen(engine.sync_engine, "before_cursor_execute", _start_timer)
    event.listen(engine.sync_engine, "after_cursor_execute", _stop_timer)
    return engine


def _drop_pool_on_disconnect(context: ExceptionContext) -> None:
    # After a failover (25006) or a restart, every connection of the pool is as dead as this one.
    if is_disconnect(context.original_exception):
        context.is_disconnect = True


def _start_timer(connection: Connection, *_: Any) -> None:
    connection.info["started"] = time.perf_counter()
    if context := current_context():
        context.queries += 1


def _stop_timer(connection: Connection, *_: Any) -> None:
    if context := current_context():
        context.database_time += time.perf_counter() - connection.info["started"]
