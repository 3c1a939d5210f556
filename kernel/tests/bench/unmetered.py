"""The service without its own metrics: what they cost."""

import kernel.http.access_log
from kernel.metrics import Cost
from service import app

__all__ = ["app"]


def forget(method: str, route: str | None, status: int, cost: Cost) -> None:
    """Count nothing."""


kernel.http.access_log.count_request = forget  # type: ignore[attr-defined]  # which it imports
