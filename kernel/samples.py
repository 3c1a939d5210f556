"""A valid request of an operation, as a slice's tests declare it in SAMPLES."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A valid request, for an entry of SAMPLES that needs more than the JSON body."""

    json: Any = None
    data: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> Any:
        """The JSON document; for a form, its fields and files together."""
        return {**(self.data or {}), **self.files} if self.data or self.files else self.json
