"""Database sessions for an operator's commands, on the configured or the embedded database."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType

from kernel.data.independent import session_of
from kernel.data.session import WriteSession
from kernel.data.writer import open_writer
from kernel.errors import CannotStart
from kernel.settings import Settings, load_settings


def development() -> ModuleType:
    """The module of development's defaults: the embedded database and a made-up secret.

    Raises:
        CannotStart: it is not installed, as in the image.
    """
    try:
        from kernel.dev import defaults  # noqa: PLC0415  # it may not be installed
    except ModuleNotFoundError:
        raise CannotStart("no PostgreSQL is embedded here: set APP_DATABASE_URL") from None
    return defaults


@asynccontextmanager
async def database_of(settings: Settings) -> AsyncIterator[str]:
    """The URL of the configured database or, in development, of the embedded one."""
    if settings.primary_url:
        yield settings.primary_url
        return
    async with development().embedded_database() as url:
        yield url


@asynccontextmanager
async def command_session() -> AsyncIterator[WriteSession]:
    """A session for an operator's command, such as `python -m features.users`: it is committed at
    the end of the block. pg_stat_activity shows its connection under the command's name.

    Raises:
        SystemExit: the settings are not valid, or the embedded database cannot start; its message
            has a line for each mistake.
        Unavailable: the database cannot be reached.
    """
    settings = load_settings()
    spec = sys.modules["__main__"].__spec__
    name = spec.parent if spec and spec.parent else "command"
    try:
        async with (
            database_of(settings) as url,
            open_writer(url, settings, name) as writer,
            session_of(writer) as session,
        ):
            yield session
    except CannotStart as reason:
        sys.exit(str(reason))
