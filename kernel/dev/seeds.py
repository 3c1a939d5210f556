"""`python -m features seed`: rows to develop with, which slices make in their `seed.py`."""

import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from inspect import iscoroutinefunction
from pathlib import Path
from types import ModuleType

from sqlmodel import SQLModel

from kernel.data.commands import command_session
from kernel.data.session import WriteSession
from kernel.dev.database import ONLY_IN_DEV
from kernel.errors import CannotStart
from kernel.settings import ROOT, load_settings

NONE = 'no slice has a seed.py: docs/guide.md, "Rows to develop with"'
NO_FUNCTION = "features/{}/seed.py should have: async def seed(session: WriteSession) -> None"
Seed = Callable[[WriteSession], Awaitable[None]]


async def seed(features: Path = ROOT / "features") -> str:
    """Run each slice's, those before whose tables are referred to, in one transaction; tell whose.

    Raises:
        SystemExit: the settings are not of development.
        CannotStart: there is none, or one that has no function.
    """
    if (env := load_settings().env) != "dev":
        sys.exit(ONLY_IN_DEV.format(env=env))
    seeds = _seeds(features)
    async with command_session() as session:
        for each in seeds.values():
            await each(session)
            await session.flush()
    return "".join(f"seeded {name}\n" for name in seeds)


def _seeds(features: Path) -> dict[str, Seed]:
    """The functions by the names of their slices, in the order of references."""
    for models in sorted(features.rglob("models.py")):
        import_module(_module_of(models))
    found = {
        path.parent.name: import_module(_module_of(path)) for path in features.glob("*/seed.py")
    }
    if not found:
        raise CannotStart(NONE)
    return {name: _function_of(name, found[name]) for name in sorted(found, key=_place_of)}


def _function_of(name: str, module: ModuleType) -> Seed:
    function: Seed | None = getattr(module, "seed", None)
    if function is None or not iscoroutinefunction(function):
        raise CannotStart(NO_FUNCTION.format(name))
    return function


def _place_of(slice_: str) -> tuple[int, str]:
    """Behind the slices to whose tables its own refer; a slice without tables is last."""
    models = sys.modules.get(f"features.{slice_}.models")
    names = {getattr(each, "__tablename__", None) for each in vars(models or object).values()}
    tables = [each.name for each in SQLModel.metadata.sorted_tables]
    places = [place for place, name in enumerate(tables) if name in names]
    return (max(places, default=len(tables)), slice_)


def _module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)
