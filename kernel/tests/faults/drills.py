"""All drills, in the order in which they are run."""

from kernel.tests.faults import (  # noqa: F401  # each enters its own
    backups,
    crowds,
    deploys,
    jobs,
    keep_alive,
    outages,
    pgbouncer,
    replication,
    signals,
    symptoms,
)
from kernel.tests.faults.drilling import DRILLS

__all__ = ["DRILLS"]
