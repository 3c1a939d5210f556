"""The database counts the versions of rows, whatever changes them.

A trigger increments `version`, so bulk UPDATEs and raw SQL count as well. SQLAlchemy's version
counter sends the same number. Migrations create the trigger (`kernel.dev.version_triggers` writes
it into them), and so does `create_all`, for the tables of tests.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import Connection, MetaData, Table, Update, bindparam, event, func, text, update
from sqlmodel import SQLModel

from kernel.data.named_rows import key_of

TRIGGER = "count_version"
MAKE_FUNCTION = f"""CREATE OR REPLACE FUNCTION {TRIGGER}() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.version = OLD.version + 1; RETURN NEW; END $$"""


def make_trigger(table: str) -> str:
    """The statement that creates the trigger of a table; `table` is its name in SQL, quoted."""
    return (
        f"CREATE TRIGGER {TRIGGER} BEFORE UPDATE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION {TRIGGER}()"
    )


def drop_trigger(table: str) -> str:
    """The statement that drops the trigger, if there is one."""
    return f"DROP TRIGGER IF EXISTS {TRIGGER} ON {table}"


def _count_versions(
    _: MetaData, connection: Connection, tables: Iterable[Table], **__: Any
) -> None:
    """Create the triggers of tables that are created without a migration."""
    connection.execute(text(MAKE_FUNCTION))
    for table in tables:
        if "version" in table.c:
            name = connection.dialect.identifier_preparer.format_table(table)
            connection.execute(text(make_trigger(name)))


event.listen(SQLModel.metadata, "after_create", _count_versions)


@cache
def counting_up(table: type[SQLModel]) -> Update:
    """The UPDATE that increments the version of the row with the parameter `key`, returning the key
    if there is such a row."""
    columns: Any = table.__table__.c  # type: ignore[attr-defined]
    key = key_of(table.__table__)  # type: ignore[attr-defined]
    values = {"version": columns.version + 1, "updated_at": func.now()}
    return update(table).where(key == bindparam("key")).values(values).returning(key)
