"""Connections behind a pooler that gives each transaction another session.

The pooler prepares each SQL text once for all of its clients, and keeps it. So a statement that
needs a new plan gets a unique text, by a comment: each search, for which a generic plan may be bad,
and every statement once a migration has outdated the prepared ones.
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
    RawConnection = asyncpg.Connection  # it is generic only in its stubs

_suffix = ""


class PooledConnection(RawConnection):
    """asyncpg's connection. If it `is_shared`, each transaction may run in another session."""

    is_shared = False
    # The SQL that resets a session before its next user.
    reset_query = RESET

    def share(self) -> None:
        """Mark it as shared. Its reset is empty: a real one would hit another session's limits."""
        self.is_shared, self.reset_query = True, "SELECT 1"

    def text_of(self, sql: str) -> str:
        """The statement, with a comment at its end if it must not reuse a prepared one."""
        if not self.is_shared:
            return sql
        return f"{sql}{_comment() if is_search(sql) else _suffix}"

    async def prepare(self, query: str, **options: Any) -> Any:
        """A prepared statement, as asyncpg's."""
        return await super().prepare(self.text_of(query), **options)

    def check_session(self, sql: str) -> None:
        """Raise RuntimeError if the statement needs a session of its own, and this is shared."""
        if self.is_shared and needs_session(sql):
            raise RuntimeError(NEEDS_SESSION)

    def outdate(self) -> None:
        """Prepare every statement anew from now on: a migration has outdated one."""
        global _suffix  # noqa: PLW0603  # the pooler shares what is prepared, so it concerns the process
        if self.is_shared:
            _suffix = _comment()


def _comment() -> str:
    """A random SQL comment, unique among all processes."""
    return f" /* {os.urandom(6).hex()} */"
