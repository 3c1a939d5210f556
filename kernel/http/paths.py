"""What a path may hold."""

import re

from starlette.types import Scope

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc
UNCLEAN = "the path should have no control characters"


def is_unclean(scope: Scope) -> bool:
    """Whether the path has control characters, which whoever logs or shows it would obey."""
    path: str = scope["path"]
    return not path.isprintable() and CONTROL.search(path) is not None
