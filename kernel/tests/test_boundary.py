"""The walk over what writes have, run over the tests' own slices."""

from kernel.testing.boundary import *  # noqa: F403
from kernel.testing.versions import *  # noqa: F403
