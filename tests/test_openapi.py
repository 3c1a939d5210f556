"""The service keeps to `openapi.json`, which clients rely on."""

from kernel.testing.openapi import *  # noqa: F403
