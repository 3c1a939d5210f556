"""How Alembic finds the models, reaches the database, and keeps out of its own way."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import MigrationScript
from alembic.runtime.migration import MigrationContext
from alembic.script.revision import MultipleHeads
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import AutoString, SQLModel, UTCDateTime

from kernel.data.commands import development
from kernel.data.hosts import servers_of
from kernel.data.migration_errors import explain
from kernel.data.schema import (
    CONNECT_SECONDS,
    VERSIONS,
    BrokenHistory,
    find_heads,
    new_revision_id,
)
from kernel.data.sqlstate import LOCK_NOT_AVAILABLE
from kernel.driver_errors import sqlstate
from kernel.errors import CannotStart
from kernel.settings import ROOT, Settings, load_settings

with suppress(ModuleNotFoundError):  # not in the image, where no migration is written
    import_module("kernel.dev.check_constraints")
    import_module("kernel.dev.version_triggers")

# Any number that nothing else in this database uses.
TAKE_LOCK = "SELECT pg_try_advisory_lock(5308117452)"
PATIENCE = 60  # seconds
# A waiting ALTER holds up every query that comes after it, so it gives up soon and tries again.
HASTE = "SET lock_timeout = '400ms'"
TRIES = 5


def render_item(kind: str, item: object, _: AutogenContext) -> str | Literal[False]:
    """Write plain SQLAlchemy types into migrations: they must not need SQLModel to be read."""
    if kind == "type" and isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, AutoString):
        return f"sa.{item.impl_instance!r}"
    return False


def name(_: MigrationContext, __: object, scripts: list[MigrationScript]) -> None:
    """Give a new revision an id of the house's form in place of Alembic's; `--rev-id` stays."""
    (script,) = scripts
    if script.head in {None, "head"} and len(heads := context.script.get_heads()) > 1:
        raise CommandError(str(BrokenHistory.of_heads(heads)))
    is_chosen = getattr(context.config.cmd_opts, "rev_id", None)
    if not is_chosen and re.fullmatch("[0-9a-f]{12}", script.rev_id or ""):
        script.rev_id = new_revision_id()


def run_migrations() -> None:
    """Run them; of a history with several heads, say what joins them."""
    try:
        with context.begin_transaction():
            context.run_migrations()
    except CommandError as error:
        if isinstance(error.__cause__, MultipleHeads):
            heads = context.script.get_heads()
            raise CommandError(str(BrokenHistory.of_heads(heads))) from error.__cause__
        raise


def configure(**options: Any) -> None:
    for models in sorted((ROOT / "features").rglob("models.py")):
        import_module(".".join(models.relative_to(ROOT).with_suffix("").parts))
    import_module("kernel.data.idempotency_keys")
    import_module("kernel.data.jobs")
    context.configure(
        target_metadata=SQLModel.metadata,
        render_item=render_item,
        process_revision_directives=name,
        transaction_per_migration=True,
        **options,
    )


def migrate(connection: Connection) -> None:
    configure(connection=connection)
    run_migrations()


async def migrate_database(url: str) -> None:
    async def connect(*_: Any, **__: Any) -> Any:
        return await servers_of(url).connect(timeout_seconds=CONNECT_SECONDS)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    async with engine.connect() as connection:
        # The session's lock, which no commit releases: whoever comes second waits, then has
        # nothing left to do. A killed migrator's lock goes with its connection. It waits outside
        # of transactions, whose ends CREATE INDEX CONCURRENTLY would wait for.
        async with asyncio.timeout(PATIENCE):
            while not await connection.scalar(text(TAKE_LOCK)):
                await connection.commit()
                await asyncio.sleep(0.1)
        await connection.execute(text(HASTE))
        await connection.commit()
        for tries_left in reversed(range(TRIES)):
            try:
                await connection.run_sync(migrate)
                break
            except DBAPIError as error:
                if sqlstate(error) != LOCK_NOT_AVAILABLE or not tries_left:
                    raise
            await connection.rollback()
            await asyncio.sleep(0.1)
        await connection.commit()


@contextmanager
def target(settings: Settings | None) -> Iterator[str]:
    """The caller's URL, or the configured one, or the embedded database's."""
    given = settings.primary_url if settings else context.config.attributes["url"]
    if given:
        yield given
        return
    with development().server(development().FOLDER) as url:
        yield url


def run_online() -> None:
    """Migrate; what stops that is one line for whoever has typed the command."""
    settings = None if context.config.attributes.get("url") else load_settings()
    try:
        find_heads(VERSIONS)  # whether they can be read at all
        with target(settings) as database_url:
            asyncio.run(migrate_database(database_url))
    except Exception as error:
        if settings is None or settings.log_level == "DEBUG":
            raise
        told = isinstance(error, CannotStart)
        line = str(error) if told else explain(error, full=settings.env == "dev")
        raise CommandError(line) from error


if context.is_offline_mode():
    configure(url="postgresql://", literal_binds=True)
    run_migrations()
else:
    run_online()
