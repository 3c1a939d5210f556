from datetime import datetime
from typing import Literal

from sqlmodel import Field

from kernel import Dto, Filter, Text

State = Literal["waiting", "running", "failed", "done"]


class JobFilter(Filter):
    state: State | None = None
    task: Text | None = Field(default=None, max_length=200)
    order: Literal["id", "-id"] = "-id"


class JobPublic(Dto):
    """A job without its arguments, which may be anybody's data."""

    id: int
    task: str
    state: str
    attempts: int
    run_at: datetime
    created_at: datetime
    request_id: str | None
    error: str | None
