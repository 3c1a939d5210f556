"""Alembic's environment: it imports the models, connects, and runs one migration at a time."""

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

# An advisory lock, by any number that nothing else in this database uses.
TRY_LOCK = "SELECT pg_try_advisory_lock(5308117452)"
LOCK_SECONDS = 60  # to wait for another process that migrates
# An ALTER that waits for its lock blocks all later queries, so it gives up soon and is tried again.
SET_LOCK_TIMEOUT = "SET lock_timeout = '400ms'"
TRIES = 5


def render_item(kind: str, item: object, _: AutogenContext) -> str | Literal[False]:
    """Write plain SQLAlchemy types into migrations, which must not import SQLModel."""
    if kind == "type" and isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, AutoString):
        return f"sa.{item.impl_instance!r}"
    return False


def name(_: MigrationContext, __: object, scripts: list[MigrationScript]) -> None:
    """Replace the id that Alembic has made for a new revision by `new_revision_id()`, which begins
    with the time; one of `--rev-id` stays.

    Raises:
        CommandError: the history has several heads, and the command names none of them.
    """
    (script,) = scripts
    if script.head in {None, "head"} and len(heads := context.script.get_heads()) > 1:
        raise CommandError(str(BrokenHistory.of_heads(heads)))
    is_chosen = getattr(context.config.cmd_opts, "rev_id", None)
    if not is_chosen and re.fullmatch("[0-9a-f]{12}", script.rev_id or ""):
        script.rev_id = new_revision_id()


def run_migrations() -> None:
    """Run the migrations.

    Raises:
        CommandError: the history has several heads; it says which command joins them.
    """
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
        # A lock of the session, which no commit releases: a second process waits, and then has
        # nothing left to do. A killed process loses it with its connection. Waiting for it is
        # outside of transactions, whose ends CREATE INDEX CONCURRENTLY would wait for.
        async with asyncio.timeout(LOCK_SECONDS):
            while not await connection.scalar(text(TRY_LOCK)):
                await connection.commit()
                await asyncio.sleep(0.1)
        await connection.execute(text(SET_LOCK_TIMEOUT))
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
    """The caller's URL, or the configured one, or that of the embedded database."""
    url = settings.primary_url if settings else context.config.attributes["url"]
    if url:
        yield url
        return
    with development().server(development().FOLDER) as embedded_url:
        yield embedded_url


def run_online() -> None:
    """Migrate the database.

    Raises:
        CommandError: of a command line, with the cause in one line. With APP_LOG_LEVEL=DEBUG, or
            for a caller that has passed a URL, the cause itself is raised.
    """
    settings = None if context.config.attributes.get("url") else load_settings()
    try:
        find_heads(VERSIONS)  # raises if a file cannot be read
        with target(settings) as database_url:
            asyncio.run(migrate_database(database_url))
    except Exception as error:
        if settings is None or settings.log_level == "DEBUG":
            raise
        is_explained = isinstance(error, CannotStart)
        line = str(error) if is_explained else explain(error, full=settings.env == "dev")
        raise CommandError(line) from error


if context.is_offline_mode():
    configure(url="postgresql://", literal_binds=True)
    run_migrations()
else:
    run_online()
