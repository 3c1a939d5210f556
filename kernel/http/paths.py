"""What a path may hold."""

import re

from starlette.types import Scope

from kernel.context import HEADER_NAMES

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc
UNCLEAN = "the path should have no control characters"


def is_unclean(scope: Scope) -> bool:
    """Whether the path has control characters, which whoever logs or shows it would obey."""
    path: str = scope["path"]
    return not path.isprintable() and CONTROL.search(path) is not None


def names_one_host(scope: Scope) -> bool:
    """Whether `Host` is there, once (RFC 9112 §3.2)."""
    if len(scope["headers"]) == len(scope[HEADER_NAMES]):
        return b"host" in scope[HEADER_NAMES]
    return [name for name, _ in scope["headers"]].count(b"host") == 1
