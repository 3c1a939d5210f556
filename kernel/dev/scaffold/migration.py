"""Writes a slice's migration: `python -m kernel.dev.scaffold.migration add|drop NAME TABLE…`.

It runs in a process of its own, in a draft of the tree, on a temporary PostgreSQL: the models are
those of the draft, and no configured database is touched. `merge NAME` writes the revision that
joins several heads, and needs no database.
"""

import re
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command
from alembic.config import Config
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlmodel import SQLModel

from kernel.data.migration_errors import explain
from kernel.data.schema import (
    VERSIONS,
    find_heads,
    migration_config,
    new_revision_id,
)
from kernel.dev.embedded import server
from kernel.dev.version_triggers import MakeTrigger, is_counted
from kernel.errors import CannotStart

ACCEPTED = "# accepted: the feature is gone, and while an older version runs, its routes answer 500"
DROP = re.compile(r"^(?=    op\.drop_table\()", re.MULTILINE)
BEHIND = "the models need a migration first: uv run alembic revision --autogenerate"


class Writer:
    """A `process_revision_directives` of Alembic's: replaces what autogenerate would write."""

    def __init__(self, action: str, tables: Iterable[str]) -> None:
        self.is_dropping = action == "drop"
        self.tables = set(tables)

    def __call__(self, _: MigrationContext, __: object, scripts: list[ops.MigrationScript]) -> None:
        (script,) = scripts
        steps = script.upgrade_ops.ops if script.upgrade_ops else []
        if set(map(_table, steps)) != (set() if self.is_dropping else self.tables):
            sys.exit(BEHIND)
        if self.is_dropping:
            create = list(self._create())
            script.upgrade_ops = ops.UpgradeOps([step.reverse() for step in reversed(create)])
            script.downgrade_ops = ops.DowngradeOps(create)

    def _create(self) -> Iterable[ops.MigrateOperation]:
        """The steps that create the tables, from the models: autogenerate would reflect them from
        the database, which takes more code."""
        for table in SQLModel.metadata.sorted_tables:
            if table.name in self.tables:
                yield ops.CreateTableOp.from_table(table)
                if is_counted(table):
                    yield MakeTrigger(table.name)
                for index in sorted(table.indexes, key=lambda index: str(index.name)):
                    yield ops.CreateIndexOp.from_index(index)


def _table(step: ops.MigrateOperation) -> str:
    return str(getattr(step, "table_name", ""))


def write(config: Config, action: str, name: str, tables: list[str]) -> None:
    """Write the migration, and test it: upgrade, downgrade, and upgrade again."""
    command.upgrade(config, "head")
    written = command.revision(
        config,
        name if action == "add" else f"remove {name}",
        autogenerate=True,
        process_revision_directives=Writer(action, tables),
    )
    if isinstance(written, Script):
        path = Path(written.path)
        path.write_text(annotate(path.read_text()))
    command.upgrade(config, "head")
    command.downgrade(config, "-1")
    command.upgrade(config, "head")


def annotate(source: str) -> str:
    """The migration without Alembic's comments, with a reason that accepts its dropped tables."""
    lines = source.splitlines(keepends=True)
    source = "".join(line for line in lines if "# ###" not in line)
    upgrade, end, downgrade = source.partition("\n\n\ndef downgrade")
    return DROP.sub(f"    {ACCEPTED}\n", upgrade) + end + downgrade


def merge(config: Config, name: str) -> None:
    """Write the revision that follows all heads, if there are several. No revision gets another
    parent: a database that has applied it would never apply that parent."""
    if len(find_heads(VERSIONS)) > 1:
        script = ScriptDirectory.from_config(config)
        script.generate_revision(new_revision_id(), name, head="heads", refresh=True)


def stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt pg_ctl stop
    sys.exit("stopped")


def main(action: str, name: str, *tables: str) -> None:
    if action == "merge":
        merge(migration_config(""), name)
        return
    stopped: list[int] = []  # nor may a signal interrupt the start of the server
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    with (
        TemporaryDirectory(prefix="julienne-") as folder,
        server(Path(folder) / "pg", durable=False) as url,
    ):
        signal.signal(signal.SIGTERM, stop)
        if not stopped:
            write(migration_config(url), action, name, list(tables))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # noqa: BLE001  # mostly of an earlier migration
        sys.exit(str(error) if isinstance(error, CannotStart) else explain(error, full=True))
