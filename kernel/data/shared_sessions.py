"""Connections behind a pooler that gives each transaction another session.

It prepares each text once for all of its clients, and keeps it. So a text of its own is what has a
plan of its own: a search, whose plan for any text may be a bad one, and every statement from the
time on when a migration has outdated what is prepared.
"""

import os
from typing import TYPE_CHECKING, Any

import asyncpg

from kernel.data.refusals import NEEDS_SESSION
from kernel.data.traces import RESET, needs_session
from kernel.fast.statements import is_search

Record = asyncpg.Record
if TYPE_CHECKING:
    RawConnection = asyncpg.Connection[Record]
else:
    RawConnection = asyncpg.Connection  # generic in its stubs alone

_suffix = ""


class PooledConnection(RawConnection):
    """asyncpg's connection, which may have another session for each transaction."""

    is_shared = False
    # What takes away whatever a session was left with.
    reset_query = RESET

    def share(self) -> None:
        """Note that it has. A reset would be another session's, and take its limits away."""
        self.is_shared, self.reset_query = True, "SELECT 1"

    def text_of(self, sql: str) -> str:
        """The statement with a comment behind it, if it must not be what was prepared before."""
        if not self.is_shared:
            return sql
        return f"{sql}{_comment() if is_search(sql) else _suffix}"

    async def prepare(self, query: str, **options: Any) -> Any:
        """A prepared statement, as asyncpg's."""
        return await super().prepare(self.text_of(query), **options)

    def check_session(self, sql: str) -> None:
        """Raise RuntimeError if the statement needs a session that stays, and there is none."""
        if self.is_shared and needs_session(sql):
            raise RuntimeError(NEEDS_SESSION)

    def outdate(self) -> None:
        """Have every statement prepared anew: a migration has outdated one."""
        global _suffix  # noqa: PLW0603  # what is prepared is the process's, not a connection's
        if self.is_shared:
            _suffix = _comment()


def _comment() -> str:
    """One that no other process has, and that none has had."""
    return f" /* {os.urandom(6).hex()} */"
