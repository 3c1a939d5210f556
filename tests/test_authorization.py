"""Who may do what, walked over every operation of the service and every kind of caller."""

from kernel.testing.authorization import *  # noqa: F403
