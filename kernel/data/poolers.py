"""Whether a connection has what it asked for: what stands between it and the server may drop a
startup parameter without a word, or have another session for each transaction.

A pooler is known by its process id: the one that it tells at the start is none of the server's.
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

# The settings, and how many further connections the server would take of those without privileges.
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
# What the server says of a statement that was prepared in another session.
OF_ANOTHER = asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError
MANUAL = "docs/production.md#pgbouncer"
DROPPED = "a pooler or proxy has dropped the startup parameter {names}: see {manual}"
NO_SESSION = (
    "a pooler gives each transaction another session and keeps no prepared statements"
    " (PgBouncer before 1.21, or max_prepared_statements=0), so its answers could be those of other"
    " statements: see {manual}"
)
# The last places at the server are for pools that have next to none.
LAST_PLACES = 4
# What a pooler was found to be is believed for so long.
BELIEF_SECONDS = 60.0
Open = Callable[[], Awaitable[Connection]]
_sessions: dict[str, float] = {}


class UnfitConnection(RuntimeError):
    """The server can be reached, but not in a way that the service can work with."""


async def verify(connection: Connection, asked: Mapping[str, str], open_: Open, url: str) -> None:
    """Check that the settings hold, and note what kind of session it is.

    Where a pooler keeps a session for each connection, what it has dropped is set by a statement.

    Raises:
        UnfitConnection: a setting is missing, or prepared statements are not kept.
    """
    wanted = {name: value for name, value in asked.items() if name != "application_name"}
    facts = await _ask(connection, [*wanted])
    found = dict(zip(wanted, map(_plain, facts["settings"]), strict=True))
    missing = {name: value for name, value in wanted.items() if found[name] != value}
    if facts["pid"] == connection.get_server_pid():
        connection.is_place_scarce = facts["free"] < max(LAST_PLACES, facts["most"] // 10)
    elif not facts["is_named_so"]:
        # The pooler has names of its own for prepared statements, and so knows them on each of its
        # connections, as PgBouncer does from 1.21 on in transaction mode.
        connection.share()
    elif await _is_session(connection, open_, url):
        # RESET would take these settings away, too: unlike startup parameters, they are no default.
        settings = "; ".join(f"SET {name} = '{value}'" for name, value in wanted.items())
        connection.reset_query, missing = f"{RESET}; {settings}", {}
        await connection.execute(settings)
        connection.has_traces = False
    else:
        raise UnfitConnection(NO_SESSION.format(manual=MANUAL))
    if missing:
        names = ", ".join(f"{name}={value}" for name, value in missing.items())
        raise UnfitConnection(DROPPED.format(names=names, manual=MANUAL))


def _plain(setting: str) -> str:
    """A duration in milliseconds, as it was asked for: the server tells it in the largest unit."""
    duration = DURATION.fullmatch(setting)
    return f"{int(duration[1]) * MILLISECONDS[duration[2]]}" if duration else setting


async def _ask(connection: Connection, names: list[str]) -> Any:
    """What the server knows of the connection. The statement has a name that nobody else has: an
    unnamed one would be lost where its two messages go to two sessions."""
    name = f"facts_{uuid4().hex}"
    try:
        statement = await connection.prepare(FACTS, name=name)
        [facts] = await statement.fetch(names, name)
    except OF_ANOTHER as error:
        raise UnfitConnection(NO_SESSION.format(manual=MANUAL)) from error
    return facts


async def _is_session(connection: Connection, open_: Open, url: str) -> bool:
    """Whether the connection keeps its session while another one works between its statements."""
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
    """The error, with what to do where a pooler refuses a startup parameter (PgBouncer's words)."""
    is_about_one = "unsupported startup parameter" in str(error)
    return UnfitConnection(f"{error}: see {MANUAL}") if is_about_one else error
