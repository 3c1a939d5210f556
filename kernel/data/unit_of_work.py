"""The transaction of a write: one manager for the ORM, for SQLAlchemy's statements and asyncpg's.

It is asyncpg's transaction, so that asyncpg tracks it. SQLAlchemy's connection over asyncpg's is
made when the ORM is first used. It shares this transaction and is closed with the unit of work, so
code that keeps it cannot use a later transaction.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection as SyncConnection
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import greenlet_spawn

from kernel.data.driver import BeforeStatement, Connection, Isolation, ignore
from kernel.data.links import Link, drop_link, take_link
from kernel.data.outages import Outages
from kernel.data.pool import Pool
from kernel.data.refusals import BUSY, ENDED, ENDED_BY_STATEMENT
from kernel.data.sqlstate import is_disconnect
from kernel.driver_errors import DRIVER_ERRORS

ATTEMPTS = 3
Callback = Callable[[], Any]


class UnitOfWork:
    """Has a connection from its first statement to COMMIT or ROLLBACK, and never after that."""

    def __init__(
        self, pool: Pool[Link], outages: Outages, isolation: Isolation | None, *, is_owned: bool
    ) -> None:
        self._pool, self._outages, self._isolation = pool, outages, isolation
        # Whether the session's user may commit; for a request's session, only the boundary may.
        self.is_owned = is_owned
        self.has_ended = self._is_taking = self._has_begun = False
        self._link: Link | None = None
        self._joined: SyncConnection | None = None
        self.outer: UnitOfWork | None = None
        self._watcher: BeforeStatement | None = None
        # Callbacks to call after the commit, each with the savepoint in which it was added.
        self.pending: list[tuple[Callback, SessionTransaction | None]] = []
        self.committed: list[Callback] = []

    @property
    def holds_connection(self) -> bool:
        return self._link is not None

    @property
    def is_open(self) -> bool:
        """Whether a transaction has begun and not ended."""
        return self._link is not None and self._link.raw.outermost is not None

    @property
    def is_commit_sent(self) -> bool:
        """Whether COMMIT may have reached the server."""
        return self._link is not None and self._link.raw.is_commit_sent

    def watch(self, watcher: BeforeStatement | None) -> None:
        """Set the function that is called before each statement, or None."""
        self._watcher = watcher
        if self._link is not None:
            self._link.raw.watcher = watcher

    async def begin(self) -> Connection:
        """The connection, in the transaction. The first call takes the one and begins the other.

        Raises:
            RuntimeError: the unit of work has ended, or another task uses it now.
            PoolTimeout: no connection came free within the pool's timeout.
            Unavailable: a new connection could not be made.
        """
        if self.has_ended:
            raise RuntimeError(ENDED)
        raw = (self._link or await self._take()).raw
        if raw.under_way or raw.is_broken:
            raw.check_idle()
        if raw.outermost is None:
            raw = await self._start(raw)
        elif not raw.is_in_transaction() and not raw.is_closed():
            raise RuntimeError(ENDED_BY_STATEMENT)
        return raw

    async def _start(self, raw: Connection, attempts: int = ATTEMPTS) -> Connection:
        try:
            await raw.transaction().start()
        except DRIVER_ERRORS as error:
            link = self._link
            if self._has_begun or attempts == 1 or link is None or not is_disconnect(error):
                raise
            # The connection was closed while it was idle; nothing was done on it, so take another.
            self._link = None
            drop_link(self._pool, link)
            self._pool.expire()
            return await self._start((await self._take()).raw, attempts - 1)
        self._has_begun = True
        return raw

    async def join(self) -> SyncConnection:
        """SQLAlchemy's connection, in the transaction, which is begun if necessary."""
        raw = await self.begin()
        if self._joined is None:
            self._joined = (self._link or await self._take()).connect()
        if not self._joined.in_transaction():
            adapted: Any = self._joined.connection.dbapi_connection
            adapted._transaction = raw.outermost
            self._joined.begin()
        return self._joined

    async def commit(self) -> None:
        """Commit the transaction, if there is one."""
        if self._link is None:
            return
        raw = self._link.raw
        if self._joined is not None and self._joined.in_transaction():
            await greenlet_spawn(self._joined.commit)
        elif raw.outermost is not None:
            await raw.outermost.commit()

    def let_commit(self, is_owned: bool) -> bool:
        """Allow or refuse commits (the boundary allows its own); return what held before."""
        was_owned, self.is_owned = self.is_owned, is_owned
        if self._link is not None:
            self._link.raw.may_commit = is_owned
        return was_owned

    async def rollback(self) -> None:
        """Roll the transaction back, if there is one."""
        if self._joined is not None and self._joined.in_transaction():
            await greenlet_spawn(self._joined.rollback)
        elif self._link is not None and self._link.raw.outermost is not None:
            await self._link.raw.outermost.rollback()

    async def end(self, session: Session) -> None:
        """Close SQLAlchemy's connection, and give asyncpg's back to the pool clean, or drop it."""
        link, self._link, self.has_ended = self._link, None, True
        if link is None:
            return
        raw, link.raw.on_end, link.raw.watcher = link.raw, ignore, None
        if not raw.is_reusable:
            self._drop(link)
        elif raw.outermost or raw.has_traces or self._joined is not None:
            await asyncio.shield(asyncio.ensure_future(self._clean(link, session)))
        else:
            self._pool.give_back(link)

    async def _clean(self, link: Link, session: Session) -> None:
        raw, is_clean = link.raw, False
        with suppress(Exception):  # it is lost, or in an unknown state: it is dropped
            if raw.outermost is None:
                self._close(session)
            else:
                await greenlet_spawn(self._close, session)
                if raw.outermost is not None:
                    await raw.outermost.rollback()
            await raw.clean()
            is_clean = raw.is_reusable and not raw.is_in_transaction()
        if is_clean:
            self._pool.give_back(link)
        else:
            self._drop(link)

    def _drop(self, link: Link) -> None:
        if self._joined is not None and not self._joined.closed and not self._joined.invalidated:
            self._joined.detach()  # else its SQLAlchemy pool would reset the connection
        drop_link(self._pool, link)

    def _close(self, session: Session) -> None:
        Session.close(session)  # `session.close` is the handler's, and is refused
        if self._joined is not None:
            self._joined.close()

    async def _take(self) -> Link:
        if self._is_taking:
            raise RuntimeError(BUSY)
        self._is_taking = True
        try:
            link = await take_link(self._pool, self._outages)
        finally:
            self._is_taking = False
        if self.has_ended:
            self._pool.give_back(link)
            raise RuntimeError(ENDED)
        raw, self._link = link.raw, link
        raw.isolation, raw.may_commit = self._isolation, self.is_owned
        raw.on_end, raw.is_commit_sent, raw.is_managed = self._note_end, False, True
        raw.watcher = self._watcher
        return link

    def _note_end(self, is_committed: bool) -> None:
        if is_committed:
            self.committed += [callback for callback, _ in self.pending]
        self.pending.clear()
