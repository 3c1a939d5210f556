"""What a bare machine has instead of a configured database and secret. Only for `APP_ENV=dev`."""

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
    """The URL of this checkout's own PostgreSQL, started if need be, at the newest schema."""
    running = server(FOLDER)
    url = await to_thread.run_sync(running.__enter__)
    try:
        await upgrade_schema(url)
        yield url
    finally:
        await to_thread.run_sync(running.__exit__, None, None, None)


def kept_secret() -> str:
    """A signing secret, made once and kept with the data, so that tokens outlive a restart."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    kept = FOLDER / "jwt_secret"
    if not kept.exists():
        draft = FOLDER / f"jwt_secret.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(32))
        # Of workers that start together, the first one's secret stays.
        with suppress(FileExistsError):
            os.link(draft, kept)
        draft.unlink()
    return kept.read_text()
