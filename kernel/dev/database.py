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
ONLY_EMBEDDED = "this is for the database that comes with the service, not for APP_DATABASE_URL"
EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"


@contextmanager
def _development_database(*, is_embedded: bool = False) -> Iterator[str]:
    """The URL of the configured database or of the embedded one, at whatever schema it is; with
    `is_embedded`, of the embedded one only.

    Raises:
        SystemExit: APP_ENV is not dev, or `is_embedded` and another database is configured.
    """
    settings = load_settings()
    if settings.env != "dev":
        sys.exit(ONLY_IN_DEV.format(env=settings.env))
    if is_embedded and settings.primary_url:
        sys.exit(ONLY_EMBEDDED)
    with nullcontext(settings.primary_url) if settings.primary_url else server(FOLDER) as url:
        yield url


def psql(arguments: Sequence[str]) -> int:
    """Run psql on the database, in the service's role, and return its exit status."""
    with _development_database() as url:
        signal.signal(
            signal.SIGINT, lambda *_: None
        )  # Ctrl+C cancels a query in psql, and must not end us
        return subprocess.call([program("psql"), url, *arguments])  # noqa: S603  # a developer's


async def reset() -> None:
    """Drop all tables of the embedded database and migrate it. A running service goes on."""
    with _development_database(is_embedded=True) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(EMPTY)
        finally:
            await connection.close()
        await upgrade_schema(url)
