"""The triggers that count the versions of rows, for Alembic's autogenerate.

Each table with a column `version` has one. Autogenerate writes it for a new table, and for an
existing table that lacks it.
"""

from typing import Any

from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, ops
from alembic.util import PriorityDispatchResult
from sqlalchemy import Table, make_url, text

from kernel.data.version_counter import TRIGGER, drop_trigger, make_trigger

IS_THERE = text("SELECT 1 FROM pg_trigger WHERE tgrelid = to_regclass(:name) AND tgname = :trigger")
PREPARER = make_url("postgresql+asyncpg://").get_dialect()().identifier_preparer


class TriggerOp(MigrateOperation):
    """A step about the trigger of one table."""

    def __init__(self, table_name: str) -> None:
        self.table_name = table_name

    def to_diff_tuple(self) -> tuple[str, str]:
        return (type(self).__name__, self.table_name)


class DropTrigger(TriggerOp):
    """Drop the trigger, if it exists."""

    def reverse(self) -> MigrateOperation:
        return MakeTrigger(self.table_name)


class MakeTrigger(TriggerOp):
    """Create the trigger of a table that has none."""

    def reverse(self) -> MigrateOperation:
        return DropTrigger(self.table_name)


@renderers.dispatch_for(DropTrigger)
def _render_drop(_: AutogenContext, op: DropTrigger) -> list[str]:
    return [f"op.execute({drop_trigger(PREPARER.quote(op.table_name))!r})"]


@renderers.dispatch_for(MakeTrigger)
def _render_make(_: AutogenContext, op: MakeTrigger) -> list[str]:
    return [f"op.execute({make_trigger(PREPARER.quote(op.table_name))!r})"]


def is_counted(table: Table | None) -> bool:
    """Whether the table has a column `version`, so that a trigger has to count it."""
    return table is not None and "version" in table.c


@comparators.dispatch_for("table")
def _compare(  # noqa: PLR0913, PLR0917  # Alembic's
    context: AutogenContext,
    changes: ops.ModifyTableOps,
    schema: str | None,
    name: str,
    there: Table | None,
    model: Table | None,
) -> PriorityDispatchResult:
    """Add to `changes` the step that creates the table's trigger, or drops it with its column."""
    if context.connection is None or schema:
        return PriorityDispatchResult.CONTINUE
    values: dict[str, Any] = {"name": PREPARER.quote(name), "trigger": TRIGGER}
    has_trigger = there is not None and context.connection.scalar(IS_THERE, values) is not None
    if is_counted(model) and not has_trigger:
        changes.ops.append(MakeTrigger(name))
    elif has_trigger and not is_counted(model):
        changes.ops.append(DropTrigger(name))
    return PriorityDispatchResult.CONTINUE
