"""What clients can rely on, walked over every operation of the service."""

from kernel.testing.contract import *  # noqa: F403
from kernel.testing.injections import *  # noqa: F403
from kernel.testing.pages import *  # noqa: F403
from kernel.testing.query_plans import *  # noqa: F403
from kernel.testing.reads import *  # noqa: F403
