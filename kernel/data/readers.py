"""Opens the service's readers: on the primary, or on a replica while it can be reached."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import ClauseElement
from sqlalchemy.exc import DBAPIError

from kernel.data.connections import connect
from kernel.data.driver import Connection
from kernel.data.engine import link_opener
from kernel.data.links import make_pool
from kernel.data.outages import Outages
from kernel.data.reader import ReadPool
from kernel.data.snapshots import Snapshot
from kernel.data.sqlstate import UNREACHABLE
from kernel.data.turns import Load
from kernel.driver_errors import sqlstate
from kernel.errors import DatabaseUnavailable
from kernel.fast.records import Record
from kernel.metrics import REPLICA_AWAY
from kernel.settings import Settings

RETRY_SECONDS = 5.0
STREAMS = 4
SYNTAX_OR_ACCESS = "42"


class ReplicaReader(ReadPool):
    """Reads from the replica. While that cannot be reached, reads go to the primary, and the
    replica is tried again every `RETRY_SECONDS`.

    `is_away`: reads go to the primary now. `diverted`: how many have gone there.
    """

    def __init__(self, replica: ReadPool, primary: ReadPool) -> None:
        self._replica, self._primary = replica, primary
        self._away_until = 0.0
        self.diverted = 0

    @property
    def is_away(self) -> bool:
        return time.monotonic() < self._away_until

    async def fetch(self, statement: ClauseElement, /, **values: Any) -> Sequence[Record]:
        """Run the statement; see `ReadPool.fetch`."""
        if not self.is_away:
            try:
                rows = await self._replica.fetch(statement, **values)
            except DatabaseUnavailable as error:
                self._note(error)
            except (asyncpg.PostgresError, DBAPIError) as error:
                # A replica may lag behind a migration, and lack its tables or columns. If the
                # statement itself is wrong, the primary will say so.
                if not sqlstate(error).startswith(SYNTAX_OR_ACCESS):
                    raise
            else:
                self._note_presence()
                return rows
        self.diverted += 1
        return await self._primary.fetch(statement, **values)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """Several reads of one state; see `ReadPool.snapshot`."""
        if not self.is_away:
            try:
                link = await self._replica.begin_snapshot()
            except DatabaseUnavailable as error:
                self._note(error)
            else:
                self._note_presence()
                async with self._replica.snapshot_on(link) as snapshot:
                    yield snapshot
                return
        self.diverted += 1
        async with self._primary.snapshot() as snapshot:
            yield snapshot

    def in_use(self) -> int:
        """How many connections are in use now, on both servers."""
        return self._replica.in_use() + self._primary.in_use()

    def loads(self) -> Iterator[tuple[str, Load]]:
        """The name and load of each of the replica's pools."""
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
async def open_reader(  # noqa: PLR0913  # they are named
    url: str,
    settings: Settings,
    name: str,
    *,
    pool_name: str = "reader",
    size: int | None = None,
    is_probe: bool = False,
) -> AsyncIterator[ReadPool]:
    """A reader whose connections are opened when they are first needed; `size` is its pool's, by
    default the setting `read_pool_size`."""
    outages = Outages(pool_name, url)

    async def open_connection() -> Connection:
        connection = await connect(url, settings, outages, name=name, read_only=True)
        if is_probe:
            # That tested the readers' startup parameters; the probe's own can write.
            await connection.hang_up()
            connection = await connect(url, settings, outages, name=name)
        connection.is_managed = True
        return connection

    # AUTOCOMMIT: SQLAlchemy begins no transaction for a read, like asyncpg.
    open_link = link_opener(open_connection, outages, isolation_level="AUTOCOMMIT")
    size = size or settings.read_pool_size
    reading = make_pool(open_link, settings, size=size, keep=size)
    streaming = make_pool(open_link, settings, size=STREAMS, keep=0)
    try:
        yield ReadPool(reading, streaming, outages, settings.statement_timeout * 2)
    finally:
        await reading.close()
        await streaming.close()


def open_probe(url: str, settings: Settings, name: str) -> AbstractAsyncContextManager[ReadPool]:
    """A reader of one connection, for readiness only: it works when all others are in use, and its
    connection is not read-only, so it sees whether the server accepts writes. Opening it also tests
    that the other readers' startup parameters are accepted."""
    return open_reader(url, settings, name, pool_name="probe", size=1, is_probe=True)


@asynccontextmanager
async def open_replica(
    url: str, settings: Settings, name: str, primary: ReadPool
) -> AsyncIterator[ReplicaReader]:
    """A reader on the replica at `url`, with the primary in reserve."""
    async with open_reader(url, settings, name, pool_name="replica") as replica:
        yield ReplicaReader(replica, primary)
