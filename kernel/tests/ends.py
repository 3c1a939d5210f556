"""A fixture that ends the connections of the service's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from kernel.tests.app import NAME

if TYPE_CHECKING:
    from asyncpg import Connection


@pytest.fixture
async def end_connections(
    sql: "Connection[Any]", running_app: FastAPI
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """End all connections of the service's. The app that the tests share has others afterwards, or
    the next test's first request would be told of an outage."""

    async def end() -> None:
        await sql.execute(f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = '{NAME}' AND datname = current_database()""")
        await asyncio.sleep(0.05)

    yield end
    resources = running_app.state.resources
    resources.writer.expire()
    for reader in (resources.reader, resources.probe):
        reader._connections.expire()
        reader._streams.expire()
