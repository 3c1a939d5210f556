"""SQLAlchemy's part of a unit of work: a session that connects, commits and ends through it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import SessionTransaction
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import await_
from sqlmodel import Session as SyncSession

from kernel.data.refusals import BOUNDARY_COMMITS, BUSY, ENDED
from kernel.data.unit_of_work import UnitOfWork

OURS = text("xmin = pg_current_xact_id_if_assigned()::xid")


class UnitSession(SyncSession):
    """SQLAlchemy's session, all of whose ways to the database go through its unit of work."""

    @property
    def unit(self) -> UnitOfWork:
        unit: UnitOfWork = self.info["unit"]
        return unit

    def get_bind(self, *_: Any, **__: Any) -> SyncConnection:
        self.check_task()
        connection: SyncConnection = await_(self.unit.join())
        return connection

    def begin(self, nested: bool = False) -> SessionTransaction:  # SQLAlchemy's
        if not nested and not self.unit.is_owned:
            raise RuntimeError(BOUNDARY_COMMITS)
        if not nested and self.unit.is_open and not self.in_transaction():
            raise InvalidRequestError("A transaction is already begun on this Session.")
        if nested and not self.in_nested_transaction():
            self.info["savepoint_task"] = asyncio.current_task()
        return super().begin(nested)

    def check_task(self) -> None:
        """Raise RuntimeError if another task than this one has opened the current savepoint: this
        task's work would be undone with it."""
        is_nested = self.in_nested_transaction()
        if is_nested and self.info["savepoint_task"] is not asyncio.current_task():
            raise RuntimeError(BUSY)

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        for instance in self.dirty if self.written else ():
            self._recount(instance)
        super().flush(objects)

    @property
    def written(self) -> set[str]:
        """The tables whose rows were changed by statements outside of the ORM."""
        written: set[str] = self.info.setdefault("written", set())
        return written

    def _recount(self, instance: Any) -> None:
        """Reload the version of a row that a statement of this transaction has counted up."""
        state = inspect(instance)
        version = state.mapper.version_id_col
        if version is not None and version.table.name in self.written:
            keys = zip(version.table.primary_key, state.identity, strict=True)
            ours = select(version).where(OURS, *[column == value for column, value in keys])
            if (counted := self.connection().scalar(ours)) is not None:
                key = state.mapper.get_property_by_column(version).key
                set_committed_value(instance, key, counted)

    def commit(self) -> None:
        if not self.unit.is_owned:
            raise RuntimeError(BOUNDARY_COMMITS)
        super().commit()
        await_(self.unit.commit())

    def rollback(self) -> None:
        super().rollback()
        if self.unit.is_open:
            await_(self.unit.rollback())

    def close(self) -> None:
        self._give_up(super().close)

    def reset(self) -> None:
        self._give_up(super().reset)

    def invalidate(self) -> None:
        self._give_up(super().invalidate)

    def _give_up(self, end: Callable[[], None]) -> None:
        if not self.unit.is_owned:
            raise RuntimeError(BOUNDARY_COMMITS)
        end()
        if self.unit.is_open:
            await_(self.unit.rollback())


def _forget_callbacks(session: SyncSession, savepoint: SessionTransaction) -> None:
    """Drop the callbacks that were registered within a savepoint that is rolled back."""
    unit: UnitOfWork = session.info["unit"]

    def is_within(inner: SessionTransaction | None) -> bool:
        return inner is not None and (inner is savepoint or is_within(inner.parent))

    unit.pending = [entry for entry in unit.pending if not is_within(entry[1])]


ROLLED_BACK = ("after_soft_rollback", _forget_callbacks)


class Ended:
    """Replaces SQLAlchemy's session in one that has ended: any use of it raises RuntimeError."""

    def __getattr__(self, _: str) -> NoReturn:
        raise RuntimeError(ENDED)

    def __setattr__(self, _: str, __: object) -> NoReturn:
        raise RuntimeError(ENDED)


class UnitConnection(AsyncConnection):
    """SQLAlchemy's connection, which marks asyncpg's as lent when it hands it out."""

    async def get_raw_connection(self) -> PoolProxiedConnection:
        raw_connection = await super().get_raw_connection()
        _ = raw_connection.driver_connection  # this marks it, see `_Adapted`
        return raw_connection
