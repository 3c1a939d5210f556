"""Checks of a new connection: a pooler on the way to the server may silently drop a startup
parameter, or use another session for each transaction.

A pooler is recognised by the process id that it reports at the start, which is not the server's.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

import asyncpg

from kernel.data.driver import Connection
from kernel.data.traces import RESET

# The settings, and how many more connections the server would accept from unprivileged users.
FACTS = """
    SELECT pg_backend_pid() AS pid, current_setting('max_connections')::int AS most,
        current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0)
            - (SELECT sum(pg_stat_get_db_numbackends(oid))::int FROM pg_database) AS free,
        ARRAY(SELECT current_setting(name) FROM unnest($1::text[]) AS name) AS settings,
        EXISTS (SELECT FROM pg_prepared_statements WHERE name = $2) AS is_named_so
"""
MILLISECONDS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION = re.compile(r"(\d+)(ms|s|min|h|d)")
# The server's errors for a statement that was prepared in another session.
OF_ANOTHER = asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError
MANUAL = "docs/production.md#pgbouncer"
DROPPED = "a pooler or proxy has dropped the startup parameter {names}: see {manual}"
NO_SESSION = (
    "a pooler gives each transaction another session and keeps no prepared statements"
    " (PgBouncer before 1.21, or max_prepared_statements=0), so its answers could be those of other"
    " statements: see {manual}"
)
# The server's last places are left to pools that have hardly any connection.
LAST_PLACES = 4
# For how long it is remembered that a pooler keeps sessions.
BELIEF_SECONDS = 60.0
Open = Callable[[], Awaitable[Connection]]
_sessions: dict[str, float] = {}


class UnfitConnection(RuntimeError):
    """The server can be reached, but a setting is missing or prepared statements are not kept."""


async def verify(
    connection: Connection, settings: Mapping[str, str], open_: Open, url: str
) -> None:
    """Check that the settings are in force, and note what kind of session the connection has.

    Where a pooler keeps one session for each connection, dropped settings are set by a statement.

    Raises:
        UnfitConnection: a setting is missing, or prepared statements are not kept.
    """
    wanted = {name: value for name, value in settings.items() if name != "application_name"}
    facts = await _ask(connection, [*wanted])
    actual = dict(zip(wanted, map(_plain, facts["settings"]), strict=True))
    missing = {name: value for name, value in wanted.items() if actual[name] != value}
    if facts["pid"] == connection.get_server_pid():
        connection.is_place_scarce = facts["free"] < max(LAST_PLACES, facts["most"] // 10)
    elif not facts["is_named_so"]:
        # The pooler renames prepared statements, so it can prepare them on any of its connections:
        # PgBouncer from 1.21 on, in transaction mode.
        connection.share()
    elif await _is_session(connection, open_, url):
        # RESET would undo these, too: unlike startup parameters, they are no defaults.
        statements = "; ".join(f"SET {name} = '{value}'" for name, value in wanted.items())
        connection.reset_query, missing = f"{RESET}; {statements}", {}
        await connection.execute(statements)
        connection.has_traces = False
    else:
        raise UnfitConnection(NO_SESSION.format(manual=MANUAL))
    if missing:
        names = ", ".join(f"{name}={value}" for name, value in missing.items())
        raise UnfitConnection(DROPPED.format(names=names, manual=MANUAL))


def _plain(setting: str) -> str:
    """A duration in milliseconds, as it was set: the server shows it in the largest unit."""
    duration = DURATION.fullmatch(setting)
    return f"{int(duration[1]) * MILLISECONDS[duration[2]]}" if duration else setting


async def _ask(connection: Connection, names: list[str]) -> Any:
    """The FACTS about the connection. The statement has a unique name: an unnamed one would be lost
    where its two messages go to two sessions."""
    name = f"facts_{uuid4().hex}"
    try:
        statement = await connection.prepare(FACTS, name=name)
        [facts] = await statement.fetch(names, name)
    except OF_ANOTHER as error:
        raise UnfitConnection(NO_SESSION.format(manual=MANUAL)) from error
    return facts


async def _is_session(connection: Connection, open_: Open, url: str) -> bool:
    """Whether the connection keeps its session while another one runs statements in between."""
    if time.monotonic() < _sessions.get(url, 0.0):
        return True
    other = await open_()
    try:
        pids = {
            ((await _ask(connection, []))["pid"], (await _ask(other, []))["pid"]) for _ in range(3)
        }
    finally:
        other.terminate()
        await asyncio.sleep(0)
    is_session = len(pids) == 1 and len({*pids.pop()}) == 2
    if is_session:
        _sessions[url] = time.monotonic() + BELIEF_SECONDS
    return is_session


def explain(error: Exception) -> Exception:
    """The error, with a link to the manual if a pooler refuses a startup parameter (PgBouncer's
    text)."""
    is_about_one = "unsupported startup parameter" in str(error)
    return UnfitConnection(f"{error}: see {MANUAL}") if is_about_one else error
