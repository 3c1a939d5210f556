"""The database's schema: its migrations, and the revision that this code needs."""

import asyncio
from functools import cache

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from features.kernel.settings import ROOT


def migration_config(url: str | None = None) -> Config:
    """Alembic's configuration; with `url`, for that database instead of the configured one."""
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes["url"] = url
    return config


@cache
def head_revision() -> str:
    """The newest revision in `migrations/versions`, which this code was written for."""
    head = ScriptDirectory.from_config(migration_config()).get_current_head()
    return head or ""


async def upgrade_schema(url: str) -> None:
    """Apply what is missing. Of processes that do so at once, one works and the others wait."""
    await asyncio.to_thread(command.upgrade, migration_config(url), "head")
