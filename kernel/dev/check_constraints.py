"""CHECK constraints for Alembic's autogenerate, which by itself knows them by their names only.

Conditions are compared in PostgreSQL's own spelling (`pg_get_constraintdef`). A changed constraint
is added NOT VALID, and validated in a transaction of its own, which does not block writers
(PostgreSQL manual, ALTER TABLE, Notes).
"""

import re
from collections.abc import Mapping

from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, ops
from alembic.util import PriorityDispatchResult
from sqlalchemy import CheckConstraint, Column, Connection, MetaData, Table, make_url, text
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
DIALECT = make_url("postgresql+asyncpg://").get_dialect()()
PREPARER = DIALECT.identifier_preparer
# What SQLAlchemy's `text()` reads as a bind parameter.
BIND = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


class CheckOp(MigrateOperation):
    """A step about one CHECK constraint. `condition` is SQL, or None if there is no such one."""

    def __init__(self, table: str, name: str, condition: str | None) -> None:
        self.table, self.name, self.condition = table, name, condition

    def to_diff_tuple(self) -> tuple[str, str, str]:
        return (type(self).__name__, self.table, self.name)


class DropCheck(CheckOp):
    """Drop the constraint if it exists: after a failure half-way, the step is run again."""

    def reverse(self) -> MigrateOperation:
        return AddCheck(self.table, self.name, self.condition)


class AddCheck(CheckOp):
    """Add the constraint NOT VALID, then validate it, which does not block writers."""

    def reverse(self) -> MigrateOperation:
        return DropCheck(self.table, self.name, self.condition)


@renderers.dispatch_for(DropCheck)
def _render_drop(_: AutogenContext, op: DropCheck) -> list[str]:
    arguments = f'op.f({op.name!r}), {op.table!r}, type_="check", if_exists=True'
    return [f"op.drop_constraint({arguments})"]


@renderers.dispatch_for(AddCheck)
def _render_add(_: AutogenContext, op: AddCheck) -> list[str]:
    if op.condition is None:
        return []
    condition = BIND.sub(r"\\:\1", op.condition)  # or it would be read as a parameter
    arguments = f"op.f({op.name!r}), {op.table!r}, {condition!r}, postgresql_not_valid=True"
    table, name = PREPARER.quote(op.table), PREPARER.quote(op.name)
    validate = f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}"
    return [
        f"op.create_check_constraint({arguments})",
        "with op.get_context().autocommit_block():",
        f"op.execute({validate!r})",
        "",
    ]


@comparators.dispatch_for("table")
def _compare(  # noqa: PLR0913, PLR0917  # Alembic's
    context: AutogenContext,
    changes: ops.ModifyTableOps,
    schema: str | None,
    name: str,
    there: Table | None,
    model: Table | None,
) -> PriorityDispatchResult:
    """Add to `changes` the steps that make the table's CHECK constraints those of its model."""
    if context.connection is None or there is None or model is None or schema:
        return PriorityDispatchResult.CONTINUE
    rules = {
        _bare(str(PREPARER.format_constraint(rule))): rule
        for rule in model.constraints
        if isinstance(rule, CheckConstraint) and rule.name
    }
    existing = _definitions(context.connection, name)
    wanted = _wanted(context.connection, model, rules)
    for constraint in sorted(existing.keys() | rules.keys()):
        if existing.get(constraint) == wanted.get(constraint):
            continue
        changes.ops.append(DropCheck(name, constraint, _condition(existing.get(constraint))))
        if constraint in rules:
            changes.ops.append(AddCheck(name, constraint, _sql(rules[constraint])))
    return PriorityDispatchResult.CONTINUE


def _definitions(connection: Connection, table: str) -> dict[str, str]:
    return {
        row[0]: row[1] for row in connection.execute(DEFINITIONS, {"name": PREPARER.quote(table)})
    }


def _wanted(
    connection: Connection, model: Table, rules: Mapping[str, CheckConstraint]
) -> dict[str, str]:
    """The model's constraints in PostgreSQL's spelling, by name: read from a temporary table, which
    is rolled back."""
    columns = [Column(column.name, column.type) for column in model.columns]
    checks = [CheckConstraint(rule.sqltext, name=conv(name)) for name, rule in rules.items()]
    savepoint = connection.begin_nested()
    try:
        Table(PROBE, MetaData(), *columns, *checks, prefixes=["TEMPORARY"]).create(connection)
        return _definitions(connection, PROBE)
    except DBAPIError:
        return dict.fromkeys(rules, "")  # a column's type does not exist yet
    finally:
        savepoint.rollback()


def _condition(definition: str | None) -> str | None:
    """The condition in a constraint's definition, with `IN (…)` in place of the array that
    PostgreSQL makes of it: it would rewrite that array again, so that a downgrade would not restore
    the condition."""
    if definition is None:
        return None
    condition = definition.removeprefix("CHECK (").removesuffix(" NOT VALID").removesuffix(")")
    return ONE_OF.sub(lambda match: f"{match[1]} IN ({match[2].replace(CAST, '')})", condition)


def _sql(rule: CheckConstraint) -> str:
    """The condition of a model's constraint, with its values in the text."""
    return str(rule.sqltext.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))


def _bare(name: str) -> str:
    """The name without SQL quotes, if it has them."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
