"""What the boundary asks of an operation."""

from typing import Protocol

from kernel.data.driver import Isolation
from kernel.http.preconditions import Place


class Operation(Protocol):
    """What a write has to know of its route; `BoundaryRoute` says what each of it means."""

    path: str
    isolation: Isolation | None
    retries: int
    timeout: float | None

    @property
    def row_place(self) -> Place | None: ...

    @property
    def body_field(self) -> object: ...

    @property
    def input_names(self) -> frozenset[str]: ...

    @property
    def holds_secret(self) -> bool: ...

    @property
    def takes_key(self) -> bool: ...

    @property
    def may_read_body(self) -> bool: ...
