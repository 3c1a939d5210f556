"""A pytest plugin: fixtures, and walks over every operation of a service.

A project's root `conftest.py` names it (`pytest_plugins = ["kernel.testing"]`), and its `tests/`
imports the walks: `from kernel.testing.contract import *`.
"""

pytest_plugins = [
    "kernel.testing.switches",
    "kernel.testing.suite",
    "kernel.testing.fixtures",
    "kernel.testing.jobs",
    "kernel.testing.instruments",
    "kernel.testing.walking",
    "kernel.testing.mail",
    "kernel.testing.matrix",
]
