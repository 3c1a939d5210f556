"""CHECK constraints for Alembic's autogenerate, which by itself knows them by their names only.

What a constraint says is compared as PostgreSQL itself writes it down. A change is written as one
that keeps nobody waiting: added NOT VALID, and validated in a transaction of its own (PostgreSQL
manual, ALTER TABLE, Notes).
"""

import re
from collections.abc import Mapping

from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, ops
from alembic.util import PriorityDispatchResult
from sqlalchemy import CheckConstraint, Column, Connection, MetaData, Table, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import conv

PROBE = "check_constraints_probe"
DEFINITIONS = text(
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE contype = 'c' AND conrelid = to_regclass(:name)"
)
# `role IN ('a', 'b')` of a VARCHAR, as PostgreSQL writes it down.
CAST = "::character varying"
VALUE = rf"'(?:[^']|'')*'{CAST}"
ONE_OF = re.compile(
    rf"""\((\w+|"[^"]+")\)::text = ANY \(\(ARRAY\[({VALUE}(?:, {VALUE})*)\]\)::text\[\]\)"""
)
PREPARER = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so


class ValidateConstraint(MigrateOperation):
    """VALIDATE CONSTRAINT, which reads the table beside those who write to it: on the way forward,
    or only on the way back."""

    def __init__(self, table: str, name: str, *, is_forward: bool) -> None:
        self.table, self.name, self.is_forward = table, name, is_forward

    def reverse(self) -> MigrateOperation:
        return ValidateConstraint(self.table, self.name, is_forward=not self.is_forward)

    def to_diff_tuple(self) -> tuple[str, str, str]:
        return ("validate_constraint", self.table, self.name)


@renderers.dispatch_for(ValidateConstraint)
def _render(_: AutogenContext, op: ValidateConstraint) -> list[str]:
    if not op.is_forward:
        return []
    statement = f"ALTER TABLE {op.table} VALIDATE CONSTRAINT {op.name}"
    return ["with op.get_context().autocommit_block():", f"op.execute({statement!r})", ""]


@comparators.dispatch_for("table")
def _compare(  # noqa: PLR0913, PLR0917  # Alembic's
    context: AutogenContext,
    changes: ops.ModifyTableOps,
    schema: str | None,
    name: str,
    there: Table | None,
    model: Table | None,
) -> PriorityDispatchResult:
    """Add to `changes` what makes the table's CHECK constraints those of its model."""
    if context.connection is None or there is None or model is None or schema:
        return PriorityDispatchResult.CONTINUE
    rules = {
        str(PREPARER.format_constraint(rule)): rule
        for rule in model.constraints
        if isinstance(rule, CheckConstraint) and rule.name
    }
    found = _definitions(context.connection, name)
    wanted = _wanted(context.connection, model, rules)
    for each in sorted(found.keys() | rules.keys()):
        if found.get(each) == wanted.get(each):
            continue
        if each in found:
            changes.ops.append(ValidateConstraint(name, each, is_forward=False))
            changes.ops.append(_drop(name, each, found[each]))
        if each in rules:
            changes.ops.append(_create(name, each, rules[each]))
            changes.ops.append(ValidateConstraint(name, each, is_forward=True))
    return PriorityDispatchResult.CONTINUE


def _definitions(connection: Connection, table: str) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.execute(DEFINITIONS, {"name": table})}


def _wanted(
    connection: Connection, model: Table, rules: Mapping[str, CheckConstraint]
) -> dict[str, str]:
    """The rules as PostgreSQL writes them down, read off a table that is taken back."""
    columns = [Column(each.name, each.type) for each in model.columns]
    checks = [CheckConstraint(rule.sqltext, name=conv(name)) for name, rule in rules.items()]
    savepoint = connection.begin_nested()
    try:
        Table(PROBE, MetaData(), *columns, *checks, prefixes=["TEMPORARY"]).create(connection)
        return _definitions(connection, PROBE)
    except DBAPIError:
        return dict.fromkeys(rules, "")  # a column's type is not there yet
    finally:
        savepoint.rollback()


def _readable(condition: str) -> str:
    """With `IN (…)` where PostgreSQL has made an array of it: read again, that array would become
    another one, and the way back would not lead back."""
    return ONE_OF.sub(lambda found: f"{found[1]} IN ({found[2].replace(CAST, '')})", condition)


def _create(table: str, name: str, rule: CheckConstraint) -> ops.CreateCheckConstraintOp:
    return ops.CreateCheckConstraintOp(conv(name), table, rule.sqltext, postgresql_not_valid=True)


def _drop(table: str, name: str, definition: str) -> ops.DropConstraintOp:
    condition = _readable(definition.removeprefix("CHECK (").removesuffix(")"))
    back = ops.CreateCheckConstraintOp(
        conv(name), table, text(condition), postgresql_not_valid=True
    )
    return ops.DropConstraintOp(conv(name), table, type_="check", _reverse=back)
