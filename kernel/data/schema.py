"""The database's schema: what it has, what this code needs, and the way there."""

import asyncio
import re
from functools import cache
from typing import TYPE_CHECKING

import asyncpg

from kernel.settings import ROOT

if TYPE_CHECKING:
    from alembic.config import Config

VERSIONS = ROOT / "migrations" / "versions"
REVISION = re.compile(r'^(revision|down_revision) = "(.+)"$', re.MULTILINE)


@cache
def head_revision() -> str:
    """The revision that no other one follows.

    Read off the files: to import Alembic takes a fifth of a start's time, and most starts have
    nothing to upgrade.
    """
    found = [REVISION.findall(path.read_text()) for path in VERSIONS.glob("*.py")]
    lines = [line for each in found for line in each]
    followed = {revision for word, revision in lines if word == "down_revision"}
    heads: set[str] = {revision for word, revision in lines if word == "revision"} - followed
    (head,) = heads
    return head


async def upgrade_schema(url: str) -> None:
    """Apply what is missing. Of processes that do so at once, one works and the others wait."""
    if await _current_revision(url) == head_revision():
        return
    from alembic import command  # noqa: PLC0415  # see head_revision

    await asyncio.to_thread(command.upgrade, migration_config(url), "head")


def migration_config(url: str) -> "Config":
    """Alembic's configuration, for this database instead of the configured one."""
    from alembic.config import Config  # noqa: PLC0415  # see head_revision

    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes["url"] = url
    return config


async def _current_revision(url: str) -> str | None:
    connection = await asyncpg.connect(url)
    try:
        revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        return None
    finally:
        await connection.close()
    return revision
