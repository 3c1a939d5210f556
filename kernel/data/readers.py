"""The readers that the service opens: on the primary, or on a replica while it can be reached."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sqlalchemy import ClauseElement

from kernel.data.connections import connect
from kernel.data.driver import Connection
from kernel.data.engine import link_opener
from kernel.data.links import Link, close_link
from kernel.data.outages import Outages
from kernel.data.pool import Load, Pool
from kernel.data.reader import ReadPool
from kernel.data.snapshots import Snapshot
from kernel.data.sqlstate import UNREACHABLE
from kernel.errors import DatabaseUnavailable
from kernel.fast.records import Record
from kernel.metrics import REPLICA_AWAY
from kernel.settings import Settings

RETRY_SECONDS = 5.0
STREAMS = 4


class ReplicaReader(ReadPool):
    """A reader that tries the replica anew every few seconds while it is away."""

    def __init__(self, replica: ReadPool, primary: ReadPool) -> None:
        self._replica, self._primary = replica, primary
        self._away_until = 0.0

    async def fetch(self, statement: ClauseElement, /, **values: Any) -> Sequence[Record]:
        """Run the statement; see `ReadPool.fetch`."""
        if time.monotonic() >= self._away_until:
            try:
                rows = await self._replica.fetch(statement, **values)
            except DatabaseUnavailable as error:
                self._note(error)
            else:
                self._note_presence()
                return rows
        return await self._primary.fetch(statement, **values)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """Several reads of one state; see `ReadPool.snapshot`."""
        if time.monotonic() >= self._away_until:
            try:
                link = await self._replica.begin_snapshot()
            except DatabaseUnavailable as error:
                self._note(error)
            else:
                self._note_presence()
                async with self._replica.snapshot_on(link) as snapshot:
                    yield snapshot
                return
        async with self._primary.snapshot() as snapshot:
            yield snapshot

    def in_use(self) -> int:
        """How many connections run a query now."""
        return self._replica.in_use() + self._primary.in_use()

    def loads(self) -> Iterator[tuple[str, Load]]:
        """Of the replica's pools; see `ReadPool.loads`."""
        return self._replica.loads()

    def _note(self, error: DatabaseUnavailable) -> None:
        is_frozen = isinstance(error.__cause__, TimeoutError)
        if error.extras["reason"] != UNREACHABLE and not is_frozen:
            raise error
        self._away_until = time.monotonic() + RETRY_SECONDS
        REPLICA_AWAY.set(1)

    def _note_presence(self) -> None:
        if self._away_until:
            self._away_until = 0.0
            REPLICA_AWAY.set(0)


@asynccontextmanager
async def open_reader(
    url: str,
    settings: Settings,
    name: str,
    *,
    pool_name: str = "reader",
    size: int | None = None,
) -> AsyncIterator[ReadPool]:
    """A reader, each of whose connections is made when it is first needed."""
    outages = Outages(pool_name, url)

    async def open_connection() -> Connection:
        return await connect(url, settings, outages, name=name, read_only=True)

    # SQLAlchemy begins no transaction for a read, as asyncpg does not.
    open_link = link_opener(open_connection, outages, isolation_level="AUTOCOMMIT")

    def pool(size: int, keep: int) -> Pool[Link]:
        return Pool(open_link, close_link, size=size, keep=keep, timeout=settings.pool_timeout)

    size = size or settings.read_pool_size
    reading, streaming = pool(size, size), pool(STREAMS, 0)
    try:
        yield ReadPool(reading, streaming, outages, settings.statement_timeout * 2)
    finally:
        await reading.close()
        await streaming.close()


def open_probe(url: str, settings: Settings, name: str) -> AbstractAsyncContextManager[ReadPool]:
    """A reader of one connection, for readiness alone: it answers when the others are all taken."""
    return open_reader(url, settings, name, pool_name="probe", size=1)


@asynccontextmanager
async def open_replica(
    url: str, settings: Settings, name: str, primary: ReadPool
) -> AsyncIterator[ReplicaReader]:
    """A reader on the replica."""
    async with open_reader(url, settings, name, pool_name="replica") as replica:
        yield ReplicaReader(replica, primary)
