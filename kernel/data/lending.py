"""Methods of asyncpg's connection that only code outside the kernel calls: it has been lent."""

from functools import wraps
from typing import Any

METHODS = (
    *("fetch", "fetchrow", "fetchval", "fetchmany", "copy_from_query", "copy_from_table"),
    *("copy_to_table", "copy_records_to_table"),
)


def note_lending(connection_class: Any) -> None:
    """Make these methods mark the connection as lent, and track their statements."""
    for name in METHODS:
        setattr(connection_class, name, _noting(name, getattr(connection_class, name)))


def _noting(name: str, method: Any) -> Any:
    @wraps(method)
    async def call(self: Any, *args: Any, **options: Any) -> Any:
        self.is_lent = True
        if self.watcher is not None:
            await self.watcher(self, str(args[0]) if "fetch" in name else "COPY")
        # `$1`, because COPY sends values, as a statement with parameters does.
        with self.watch(args[0] if "fetch" in name else f"COPY $1 ({name})"):
            return await method(self, *args, **options)

    return call
