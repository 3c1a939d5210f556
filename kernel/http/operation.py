"""The attributes of a route that the boundary reads."""

from typing import Protocol

from kernel.data.driver import Isolation
from kernel.http.preconditions import Place


class Operation(Protocol):
    """The attributes of a route that a write needs; `BoundaryRoute` documents each."""

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
