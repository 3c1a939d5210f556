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
# What SQLAlchemy's `text()` takes for a parameter.
BIND = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


class CheckOp(MigrateOperation):
    """A step about one CHECK constraint, whose condition is SQL; None for one that is not there."""

    def __init__(self, table: str, name: str, condition: str | None) -> None:
        self.table, self.name, self.condition = table, name, condition

    def to_diff_tuple(self) -> tuple[str, str, str]:
        return (type(self).__name__, self.table, self.name)


class DropCheck(CheckOp):
    """Drop it, if it is there: a step that was given up half-way is run again."""

    def reverse(self) -> MigrateOperation:
        return AddCheck(self.table, self.name, self.condition)


class AddCheck(CheckOp):
    """Add it NOT VALID, then have it validated, which reads the table beside those who write."""

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
    """Add to `changes` what makes the table's CHECK constraints those of its model."""
    if context.connection is None or there is None or model is None or schema:
        return PriorityDispatchResult.CONTINUE
    rules = {
        _bare(str(PREPARER.format_constraint(rule))): rule
        for rule in model.constraints
        if isinstance(rule, CheckConstraint) and rule.name
    }
    found = _definitions(context.connection, name)
    wanted = _wanted(context.connection, model, rules)
    for each in sorted(found.keys() | rules.keys()):
        if found.get(each) != wanted.get(each):
            changes.ops.append(DropCheck(name, each, _condition(found.get(each))))
        if each in rules and found.get(each) != wanted.get(each):
            changes.ops.append(AddCheck(name, each, _sql(rules[each])))
    return PriorityDispatchResult.CONTINUE


def _definitions(connection: Connection, table: str) -> dict[str, str]:
    return {
        row[0]: row[1] for row in connection.execute(DEFINITIONS, {"name": PREPARER.quote(table)})
    }


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


def _condition(definition: str | None) -> str | None:
    """The condition of a constraint as PostgreSQL has it, with `IN (…)` where it has made an array
    of that: read again, the array would become another one, and the way back would not lead back.
    """
    if definition is None:
        return None
    condition = definition.removeprefix("CHECK (").removesuffix(" NOT VALID").removesuffix(")")
    return ONE_OF.sub(lambda found: f"{found[1]} IN ({found[2].replace(CAST, '')})", condition)


def _sql(rule: CheckConstraint) -> str:
    """The condition of a model's constraint."""
    return str(rule.sqltext.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))


def _bare(name: str) -> str:
    """A name as it is, of one that may be quoted."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
