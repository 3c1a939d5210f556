"""SQLAlchemy's part of a unit of work, in whose every way to the database it has a say."""

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
    """SQLAlchemy's part, in whose every way to the database the unit of work has a say."""

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
        """Raise RuntimeError in another task than the one that has opened a savepoint: what it does
        there would be undone with the savepoint, or kept without it."""
        is_nested = self.in_nested_transaction()
        if is_nested and self.info["savepoint_task"] is not asyncio.current_task():
            raise RuntimeError(BUSY)

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        for instance in self.dirty if self.written else ():
            self._recount(instance)
        super().flush(objects)

    @property
    def written(self) -> set[str]:
        """The tables that statements beside the ORM have changed rows of."""
        written: set[str] = self.info.setdefault("written", set())
        return written

    def _recount(self, instance: Any) -> None:
        """Take over the version of a row that a statement of this transaction has counted up."""
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

    def _give_up(self, way: Callable[[], None]) -> None:
        if not self.unit.is_owned:
            raise RuntimeError(BOUNDARY_COMMITS)
        way()
        if self.unit.is_open:
            await_(self.unit.rollback())


def _forget_callbacks(session: SyncSession, savepoint: SessionTransaction) -> None:
    """What was to be called for work that is undone with its savepoint is not."""
    unit: UnitOfWork = session.info["unit"]

    def is_within(inner: SessionTransaction | None) -> bool:
        return inner is not None and (inner is savepoint or is_within(inner.parent))

    unit.pending = [each for each in unit.pending if not is_within(each[1])]


ROLLED_BACK = ("after_soft_rollback", _forget_callbacks)


class Ended:
    """Stands where an ended session had SQLAlchemy's."""

    def __getattr__(self, _: str) -> NoReturn:
        raise RuntimeError(ENDED)

    def __setattr__(self, _: str, __: object) -> NoReturn:
        raise RuntimeError(ENDED)


class UnitConnection(AsyncConnection):
    """SQLAlchemy's connection; whoever has asked it for the driver's may keep that."""

    async def get_raw_connection(self) -> PoolProxiedConnection:
        raw_connection = await super().get_raw_connection()
        _ = raw_connection.driver_connection  # which notes it
        return raw_connection
