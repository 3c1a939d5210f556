"""Sessions and connections beside a request or after it, and callbacks after a commit."""

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
    """Call the callbacks of a commit in order; an error is logged and does not stop the others."""
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
    """An independent session, for work beside a request or after its answer: background tasks,
    streams, tasks, the lifespan.

    It is committed at the end of the block, or earlier by `commit()`, and rolled back if the block
    raises. Nothing is retried. Outside of a request, pass the `app`.

    Raises:
        RuntimeError: no request is under way, and no `app` was passed.
        Unavailable: when it is first used, the database cannot be reached.
    """
    async with session_of(writer_of(app), isolation) as session:
        yield session


@asynccontextmanager
async def session_of(
    writer: Writer, isolation: Isolation | None = None
) -> AsyncIterator[WriteSession]:
    """An independent session on the connections of `writer`; see `open_session`."""
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
    """A new asyncpg connection outside of the pools, closed after the block: for LISTEN.

    Raises:
        RuntimeError: no request is under way, and no `app` was passed.
        Unavailable: the database cannot be reached.
    """
    connection = await writer_of(app).connect()
    try:
        yield connection
    finally:
        await connection.hang_up()


def writer_of(app: HasState | None) -> Writer:
    """The writer of `app`, or of the app of the request under way."""
    context = current_context()
    if app is None and context is not None:
        app = context.app
    if app is None:
        raise RuntimeError("no request is under way: pass the app, as in open_session(app)")
    return resources_of(app).writer
