"""The database's schema: applied revisions, the revision this code needs, and the upgrade."""

import asyncio
import re
import secrets
import string
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

import asyncpg

from kernel.data.hosts import servers_of
from kernel.data.migration_errors import explain
from kernel.errors import CannotStart
from kernel.settings import ROOT, STARTUP_FAILURE

if TYPE_CHECKING:
    from alembic.config import Config

VERSIONS = ROOT / "migrations" / "versions"
MERGE = "uv run python -m features merge"
# `revision` is one id; `down_revision` is one, None, or a tuple that may span several lines.
REVISION = re.compile(r"^(revision|down_revision)\b[^=\n]*= *(\([^)]*\)|[^#\n]*)", re.MULTILINE)
IDS = re.compile(r"""["']([^"']+)["']""")
CONNECT_SECONDS = 10
ALPHABET = string.ascii_lowercase + string.digits


class BrokenHistory(CannotStart):
    """The migrations do not lead to one newest revision; the message says what to do."""

    @classmethod
    def of_heads(cls, heads: Iterable[str]) -> Self:
        names = ", ".join(sorted(heads))
        return cls(f"the migrations have more than one head ({names}): join them with `{MERGE}`")


@cache
def head_revision() -> str:
    """The revision that no other one follows.

    It is read from the files: importing Alembic takes a fifth of a start's time, and most starts
    have nothing to upgrade.

    Raises:
        BrokenHistory: there is not exactly one, or a file is wrong (see `find_heads`).
    """
    heads = find_heads(VERSIONS)
    if len(heads) != 1:
        raise BrokenHistory.of_heads(heads)
    return heads.pop()


@cache
def known_revisions() -> frozenset[str]:
    """The revisions of this code's migrations."""
    return frozenset(_read_history(VERSIONS))


def find_heads(versions: Path) -> set[str]:
    """The revisions in a folder that no other one there follows.

    Raises:
        BrokenHistory: a file cannot be read, has no id or that of another file, or follows a
            missing revision, or itself.
    """
    followed = _read_history(versions)
    heads = followed.keys() - set[str]().union(*followed.values())
    reached, pending = set[str](), [*heads]
    while pending:
        reached.add(revision := pending.pop())
        pending += followed[revision] - reached
    if circle := followed.keys() - reached:
        raise BrokenHistory(
            f"the migrations {', '.join(sorted(circle))} follow each other in a circle"
        )
    return heads


def _read_history(versions: Path) -> dict[str, set[str]]:
    """The revisions in a folder, and those that each of them follows."""
    files: dict[str, str] = {}
    followed: dict[str, set[str]] = {}
    for path in sorted(versions.glob("*.py")):
        assigned = {word: IDS.findall(value) for word, value in REVISION.findall(_text_of(path))}
        (revision, *_) = assigned.get("revision") or [""]
        if not revision:
            raise BrokenHistory(f'migrations/versions/{path.name} has no revision = "…"')
        if revision in files:
            raise BrokenHistory(
                f"{files[revision]} and {path.name} have the same revision id {revision}: give"
                " another one to the file that no database has applied"
            )
        files[revision] = path.name
        followed[revision] = {*assigned.get("down_revision", ())}
    for revision, before in followed.items():
        if unknown := before - followed.keys():
            raise BrokenHistory(
                f"migrations/versions/{files[revision]} follows {', '.join(sorted(unknown))},"
                " which no file has: correct its down_revision"
            )
    return followed


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BrokenHistory(f"migrations/versions/{path.name} should be UTF-8") from None


def require_one_head() -> None:
    """End the process with one line unless the migrations lead to one newest revision.

    Raises:
        SystemExit: with uvicorn's status for a failed start.
    """
    try:
        head_revision()
    except BrokenHistory as reason:
        sys.stderr.write(f"{reason}\n")
        raise SystemExit(STARTUP_FAILURE) from None


def new_revision_id() -> str:
    """An id that no other branch has: the time in seconds, and four random characters.

    Ids sort by time. Alembic stores them in a VARCHAR(32).
    """
    suffix = "".join(secrets.choice(ALPHABET) for _ in range(4))
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}_{suffix}"


async def upgrade_schema(url: str) -> None:
    """Apply the missing migrations. Of several processes at once, one works and the others wait.

    Raises:
        BrokenHistory: a migration cannot be read, or has failed.
    """
    if await _current_revisions(url) == {head_revision()}:
        return
    from alembic import command  # noqa: PLC0415  # see head_revision

    try:
        await asyncio.to_thread(command.upgrade, migration_config(url), "head")
    except Exception as error:
        raise BrokenHistory(explain(error, full=True)) from error


def migration_config(url: str) -> "Config":
    """Alembic's configuration, for this database instead of the configured one."""
    from alembic.config import Config  # noqa: PLC0415  # see head_revision

    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes["url"] = url
    return config


async def _current_revisions(url: str) -> set[str]:
    """The applied revisions: several, if branches were applied that a later revision merges."""
    connection = await servers_of(url).connect(timeout_seconds=CONNECT_SECONDS)
    try:
        rows = await connection.fetch("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        return set()
    finally:
        await connection.close()
    return {row["version_num"] for row in rows}
