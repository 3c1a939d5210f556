"""What every write of the service has: retries by key, dry runs, preconditions."""

from kernel.testing.boundary import *  # noqa: F403
from kernel.testing.versions import *  # noqa: F403
