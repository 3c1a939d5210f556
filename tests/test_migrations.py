"""The service's own migrations: each step there and back, safe while in use, and as the models."""

from kernel.testing.migrations import *  # noqa: F403  # the walk's tests and fixtures, as they are
