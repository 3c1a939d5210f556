"""The database as an operator's command reaches it: the configured one, or the embedded one."""

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
    """What a bare machine has instead of a configured database and secret.

    Raises:
        CannotStart: it is not installed, as in the image.
    """
    try:
        from kernel.dev import defaults  # noqa: PLC0415  # an import of what may not be there
    except ModuleNotFoundError:
        raise CannotStart("no PostgreSQL comes with this: set APP_DATABASE_URL") from None
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
    the end of the block, and its connection has the command's name.

    Raises:
        SystemExit: the settings are not valid, or the embedded database cannot be had; a line for
            each mistake.
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
