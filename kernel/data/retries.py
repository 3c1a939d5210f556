"""The counter of retries, by cause."""

from kernel.data.sqlstate import CHANGING, LOCK_NOT_AVAILABLE, is_outdated
from kernel.driver_errors import sqlstate
from kernel.metrics import RETRIES

DISCONNECT = "disconnect"
CONTENTION = {"40001": "serialization", "40P01": "deadlock", LOCK_NOT_AVAILABLE: "lock"}
CAUSES = (*CONTENTION.values(), DISCONNECT, CHANGING)


def count_retry(kind: str, error: BaseException) -> None:
    """Count the retry of a `kind`, "read" or "write", by the cause of the error."""
    cause = CHANGING if is_outdated(error) else CONTENTION.get(sqlstate(error), DISCONNECT)
    RETRIES.add(1, kind, cause)
