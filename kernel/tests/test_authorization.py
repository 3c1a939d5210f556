"""The walk over who may do what, run over the tests' own slices."""

from kernel.testing.authorization import *  # noqa: F403
