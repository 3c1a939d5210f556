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
    """End all connections of the service's. The app that the tests share has others afterwards."""

    async def end() -> None:
        await sql.execute(f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name LIKE '{NAME} %' AND datname = current_database()""")
        await asyncio.sleep(0.05)

    yield end
    resources = running_app.state.resources
    pools = [resources.writer, resources.reader._connections, resources.schema.pool._connections]
    for pool in (*pools, resources.reader._streams):
        pool.expire()
