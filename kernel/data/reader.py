"""`ReadPool`: queries on connections that cannot write, one round trip each.

Statements are SQLModel `select(...)` objects with `bindparam`s; a query's values are passed by
their names. A statement of plain types that is built once, at module level, is compiled once and
runs on asyncpg directly; SQLAlchemy executes any other.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import ClauseElement

from kernel.data.execution import execute, run_plan
from kernel.data.links import Link, drop_link, take_link
from kernel.data.outages import Outages
from kernel.data.pool import Pool
from kernel.data.retries import count_retry
from kernel.data.snapshots import ATTEMPTS, Rows, Snapshot, raise_for_read
from kernel.data.sqlstate import (
    LOCK_NOT_AVAILABLE,
    READ_ONLY,
    is_disconnect,
    is_retryable,
    is_suspect,
    raise_answer,
)
from kernel.data.turns import Load
from kernel.driver_errors import DRIVER_ERRORS, PoolTimeout, sqlstate
from kernel.fast.records import Record
from kernel.fast.statements import bind, plan_of

M = TypeVar("M", bound=BaseModel)


class ReadPool(Rows):
    """Queries on connections that were started with `default_transaction_read_only=on`.

    Snapshots and streams have a small pool of their own: a client that reads a stream slowly holds
    a connection for that long.
    """

    def __init__(
        self,
        connections: Pool[Link],
        streams: Pool[Link],
        outages: Outages,
        patience: float,
    ) -> None:
        self._connections, self._streams, self._outages = connections, streams, outages
        self._patience = patience

    async def fetch(self, statement: ClauseElement, /, **values: Any) -> Sequence[Record]:
        """Run the statement. Its rows are like asyncpg's records (see `Record`).

        Raises:
            TypeError: a value is missing, of the wrong type, or for no parameter of the statement.
            Unavailable: no connection was free within the pool's timeout, none can be opened, or
                the statement took too long.
            ServiceError: the database refused, see `violations.ANSWERS`.
        """
        # A read is safe to repeat: on a new connection, or after a standby's recovery conflict.
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._run(statement, values)
            except DRIVER_ERRORS as error:
                # Restarted, frozen or outdated; READ_ONLY is just a statement that tries to write.
                if is_suspect(error) and sqlstate(error) != READ_ONLY:
                    self._connections.expire()
                if attempt == ATTEMPTS or not _may_be_repeated(error):
                    raise_for_read(error)
                count_retry("read", error)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """Several reads of one state: a REPEATABLE READ transaction that cannot write.

        It holds a connection until the block ends, but ends itself if more than twice the statement
        timeout passes between two reads.

        Raises:
            Unavailable: as for `fetch`.
        """
        async with self.snapshot_on(await self.begin_snapshot()) as snapshot:
            yield snapshot

    @asynccontextmanager
    async def snapshot_on(self, link: Link) -> AsyncIterator[Snapshot]:
        """The snapshot on a link of `begin_snapshot`, which is given back after the block."""
        snapshot = Snapshot(link, self.begin_snapshot, self._release_stream, self._patience)
        try:
            yield snapshot
        finally:
            await snapshot.end()

    async def stream(
        self, model: type[M], statement: ClauseElement, /, **values: Any
    ) -> AsyncIterator[M]:
        """Any number of rows as DTOs, for a `StreamingResponse`: memory use stays constant."""
        async with self.snapshot() as snapshot:
            async for row in snapshot.stream(model, statement, **values):
                yield row

    def in_use(self) -> int:
        """How many connections are in use now."""
        return self._connections.in_use() + self._streams.in_use()

    def loads(self) -> Iterator[tuple[str, Load]]:
        """The name and load of each pool."""
        name = self._outages.pool
        yield name, self._connections.load()
        yield f"{name}_streams", self._streams.load()

    async def _run(self, statement: ClauseElement, values: Mapping[str, Any]) -> Sequence[Record]:
        plain = bind(plan_of(statement), values)
        link = await self._take(self._connections)
        try:
            if plain:
                records = await run_plan(link.raw, *plain)
            else:
                with closing(link.connect()) as connection:
                    records = await execute(link.raw, connection, statement, values)
        except BaseException:
            await self._return(link)
            raise
        if link.raw.has_traces or link.raw.is_lent:
            await self._return(link)
        else:
            self._connections.give_back(link)
        return records

    async def _return(self, link: Link) -> None:
        """Give a connection back after cleaning it, or close it if it cannot be reused."""
        try:
            if link.raw.is_reusable and not link.raw.is_in_transaction():
                with suppress(*DRIVER_ERRORS):  # then it is broken, and will be closed
                    await link.raw.clean()
        finally:
            self._release(link, self._connections)

    def _release(self, link: Link, pool: Pool[Link]) -> None:
        raw = link.raw
        if raw.is_outdated:
            pool.expire()  # the others are outdated, too
        if not raw.is_reusable or raw.outermost or raw.is_in_transaction():
            drop_link(pool, link)
        else:
            pool.give_back(link)

    def _release_stream(self, link: Link) -> None:
        self._release(link, self._streams)

    async def begin_snapshot(self) -> Link:
        """A connection in a REPEATABLE READ transaction."""
        for attempt in range(1, ATTEMPTS + 1):
            link = await self._take(self._streams)
            try:
                await link.raw.transaction(isolation="repeatable_read", readonly=True).start()
            except BaseException as error:
                self._streams.drop(link)
                self._streams.expire()
                if not isinstance(error, Exception):
                    raise
                if attempt == ATTEMPTS or not is_disconnect(error):
                    raise_answer(error)
            else:
                return link
        raise AssertionError("unreachable")

    async def _take(self, pool: Pool[Link]) -> Link:
        try:
            return await take_link(pool, self._outages, is_read=True)
        except PoolTimeout as error:
            raise_answer(error)


def _may_be_repeated(error: Exception) -> bool:
    return is_retryable(error) and sqlstate(error) not in {LOCK_NOT_AVAILABLE, READ_ONLY}
