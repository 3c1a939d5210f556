"""Work on the database beside a request or after it, and what is called after a commit."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from inspect import isawaitable

import asyncpg

from kernel.context import current_context
from kernel.data.driver import Isolation
from kernel.data.resources import HasState, resources_of
from kernel.data.session import WriteSession
from kernel.data.unit_of_work import Callback
from kernel.data.writer import Writer, innermost_unit

logger = logging.getLogger(__name__)


async def run_callbacks(callbacks: list[Callback]) -> None:
    """Call what was to be called after a commit; the failure of one is not another's."""
    for callback in callbacks:
        try:
            result = callback()
            if isawaitable(result):
                await result
        except Exception:
            logger.exception("a callback after a commit has failed")


@asynccontextmanager
async def open_session(
    app: HasState | None = None, *, isolation: Isolation | None = None
) -> AsyncIterator[WriteSession]:
    """A session of its own, for work beside a request or after its answer: background tasks,
    streams, tasks, the lifespan.

    It is committed at the end of the block, or by its `commit()` before, and rolled back if the
    block raises. It is not tried again. Outside of a request, name the `app`.

    Raises:
        RuntimeError: no request is under way, and no app was named.
    """
    async with session_of(writer_of(app), isolation) as session:
        yield session


@asynccontextmanager
async def session_of(
    writer: Writer, isolation: Isolation | None = None
) -> AsyncIterator[WriteSession]:
    """A session on connections that are named, as an operator's command has them."""
    session = WriteSession(writer.independent_unit(isolation))
    outer = innermost_unit.get()
    innermost_unit.set(session.unit)
    try:
        yield session
        await session.finish()
    finally:
        innermost_unit.set(outer)  # not a token's reset: a generator may be closed elsewhere
        await session.end()
        await run_callbacks(session.unit.committed)


@asynccontextmanager
async def open_connection(
    app: HasState | None = None,
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """asyncpg's connection of one's own, outside of the pools, closed afterwards: for LISTEN.

    Raises:
        RuntimeError: no request is under way, and no app was named.
        Unavailable: none can be had.
    """
    connection = await writer_of(app).connect()
    try:
        yield connection
    finally:
        await connection.hang_up()


def writer_of(app: HasState | None) -> Writer:
    """The writer of the app, or of the one to which the request under way came."""
    context = current_context()
    if app is None and context is not None:
        app = context.app
    if app is None:
        raise RuntimeError("no request is under way: name the app, as in open_session(app)")
    return resources_of(app).writer
