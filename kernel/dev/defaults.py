"""Defaults of development (`APP_ENV=dev`): the embedded database, and a generated secret."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from anyio import to_thread

from kernel.data.schema import upgrade_schema
from kernel.dev.embedded import server
from kernel.settings import ROOT

FOLDER = ROOT / ".postgres"


@asynccontextmanager
async def embedded_database() -> AsyncIterator[str]:
    """The URL of this checkout's own PostgreSQL, started if need be, and migrated to the head."""
    context = server(FOLDER)
    url = await to_thread.run_sync(context.__enter__)
    try:
        await upgrade_schema(url)
        yield url
    finally:
        await to_thread.run_sync(context.__exit__, None, None, None)


def kept_secret() -> str:
    """The signing secret, made once and stored with the data, so that tokens outlive a restart."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    file = FOLDER / "jwt_secret"
    if not file.exists():
        draft = FOLDER / f"jwt_secret.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(32))
        # Of workers that start together, all use the secret of the first: a link never overwrites.
        with suppress(FileExistsError):
            os.link(draft, file)
        draft.unlink()
    return file.read_text()
