"""A pytest plugin: fixtures, and walks over every operation of a service.

A project's root `conftest.py` names it (`from kernel.testing.hooks import Sample as Sample

pytest_plugins = ["kernel.testing"]`), and its `tests/`
imports the walks: `from kernel.testing.contract import *`.
"""

from kernel.testing.hooks import Sample as Sample

pytest_plugins = [
    "kernel.testing.suite",
    "kernel.testing.fixtures",
    "kernel.testing.instruments",
    "kernel.testing.walking",
]
