"""asyncpg's transactions; each connection keeps track of its outermost one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg.transaction

from kernel.context import current_context
from kernel.data.refusals import BOUNDARY_COMMITS, ENDED_BY_STATEMENT

if TYPE_CHECKING:
    from kernel.data.driver import Connection


class Transaction(asyncpg.transaction.Transaction):
    """asyncpg's transaction or savepoint. The outermost is noted on its connection."""

    _connection: "Connection"

    async def start(self) -> None:
        raw = self._connection
        if raw.outermost is not None:
            await super().start()
            return
        raw.outermost, raw.is_commit_sent, raw.last_used = self, False, time.monotonic()
        await raw.watched("BEGIN", super().start)

    async def commit(self) -> None:
        """Commit, or release the savepoint.

        Raises:
            RuntimeError: only the request boundary may commit, another task's statement is under
                way, or the server's transaction has ended or failed.
        """
        raw = self._connection
        if raw.outermost is self:
            if not raw.may_commit:
                raise RuntimeError(BOUNDARY_COMMITS)
            raw.check_idle()
            if not raw.is_in_transaction() and not raw.is_closed():
                raise RuntimeError(ENDED_BY_STATEMENT)
            raw.is_commit_sent = not raw.is_closed()
        await self._end(super().commit, is_commit=True)

    async def rollback(self) -> None:
        await self._end(super().rollback, is_commit=False)

    async def __aexit__(self, *error: Any) -> None:  # noqa: PYI036  # asyncpg's
        await self._end(partial(super().__aexit__, *error), is_commit=error[0] is None)

    async def _end(self, end: Callable[[], Awaitable[None]], *, is_commit: bool) -> None:
        raw = self._connection
        if raw.outermost is not self:
            await end()
            return
        try:
            await raw.watched("COMMIT" if is_commit else "ROLLBACK", end)
        except asyncio.CancelledError:
            if is_commit and (context := current_context()):
                context.may_be_done = True
            raise
        finally:
            raw.outermost = None
        raw.on_end(is_commit)
