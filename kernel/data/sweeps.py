"""Deletes expired rows, a thousand at a time, except those that are locked."""

from typing import Any

from sqlalchemy import ColumnElement, Delete, delete, select
from sqlalchemy.orm import Mapped

from kernel.data.independent import open_session

SWEPT_AT_ONCE = 1000


def sweeping(table: Any, key: Mapped[Any], *is_expired: ColumnElement[bool]) -> Delete:
    """The statement that deletes some expired rows of a table, by their key."""
    some = select(key).where(*is_expired).limit(SWEPT_AT_ONCE).with_for_update(skip_locked=True)
    # As a subquery it could be run for each row of the table, and find a thousand others each time.
    return delete(table).where(key.in_(select(some.cte("expired"))))


async def sweep(statement: Delete, **values: Any) -> None:
    """Run a `sweeping` statement until no row is left, each time in a transaction of its own."""
    swept = SWEPT_AT_ONCE
    while swept == SWEPT_AT_ONCE:
        async with open_session() as session:
            connection = await session.connection()
            swept = (await connection.execute(statement, values)).rowcount
