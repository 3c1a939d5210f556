"""What Alembic's autogenerate writes for one table of a test, `peeled_orders`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection of SQLAlchemy's, as Alembic has one."""
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda *_, **__: asyncpg.connect(url)
    )
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


def steps_of_orders(connection: Connection, metadata: MetaData, **options: Any) -> list[str]:
    """The steps, there and back, that make the database's table that of the metadata."""
    options["include_name"] = lambda name, kind, _: kind != "table" or name == "peeled_orders"
    context = MigrationContext.configure(connection, opts=options)
    made = produce_migrations(context, metadata)
    return [render_python_code(each) for each in (made.upgrade_ops, made.downgrade_ops) if each]
