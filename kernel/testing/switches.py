"""`--without=plan,rows`: the same tests with short ways off, so that each is held against the long
one that stands behind it. `all` is all of them."""

import pytest

from kernel.fast.switches import OFF

LAYERS = ("plan", "switchboard", "statements", "rows")


def pytest_addoption(parser: pytest.Parser) -> None:
    told = f"turn short ways off: all, or some of {', '.join(LAYERS)}"
    parser.addoption("--without", default="", metavar="LAYERS", help=told)


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--without")
    layers = set(LAYERS if given == "all" else filter(None, given.split(",")))
    if unknown := layers - {*LAYERS}:
        raise pytest.UsageError(f"--without knows {', '.join(LAYERS)}: no {', '.join(unknown)}")
    OFF.update(layers)


def needs(*layers: str) -> pytest.MarkDecorator:
    """Skip a test about a short way when that is off."""
    return pytest.mark.skipif(not OFF.isdisjoint(layers), reason=f"without {', '.join(layers)}")
