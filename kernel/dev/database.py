"""The developers' commands for their database: a prompt on it, and a fresh start."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import asyncpg

from kernel.data.schema import upgrade_schema
from kernel.dev.defaults import FOLDER
from kernel.dev.embedded import program, server
from kernel.settings import load_settings

ONLY_IN_DEV = "this is for development, and APP_ENV is {env}"
ONLY_OWN = "this is for the database that comes with the service, not for APP_DATABASE_URL"
EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"


@contextmanager
def _development_database(*, is_own: bool = False) -> Iterator[str]:
    """Its URL, whatever its schema is; with `is_own`, only that of the embedded one.

    Raises:
        SystemExit: the settings name another one, or are not of development.
    """
    settings = load_settings()
    if settings.env != "dev":
        sys.exit(ONLY_IN_DEV.format(env=settings.env))
    if is_own and settings.primary_url:
        sys.exit(ONLY_OWN)
    with nullcontext(settings.primary_url) if settings.primary_url else server(FOLDER) as url:
        yield url


def psql(arguments: Sequence[str]) -> int:
    """Run PostgreSQL's prompt on the database, in the service's role; its exit status."""
    with _development_database() as url:
        signal.signal(signal.SIGINT, lambda *_: None)  # it ends a query, and is the prompt's alone
        return subprocess.call([program("psql"), url, *arguments])  # noqa: S603  # a developer's


async def reset() -> None:
    """Empty the embedded database and make its tables anew. A service that runs may go on."""
    with _development_database(is_own=True) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(EMPTY)
        finally:
            await connection.close()
        await upgrade_schema(url)
