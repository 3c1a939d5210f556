"""How often each operation of the service waits for the database."""

from kernel.testing.round_trips import *  # noqa: F403
