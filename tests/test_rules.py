"""Rules that every slice of the service keeps."""

from kernel.testing.rules import *  # noqa: F403
from kernel.testing.signatures import *  # noqa: F403
