"""`python -m features seed`: runs the `seed.py` of slices, which make rows for development."""

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
    """Run the seeds of all slices in one transaction, those of referenced tables first, and return
    a line for each slice.

    Raises:
        SystemExit: APP_ENV is not dev.
        CannotStart: there is no seed.py, or one without an async function `seed`.
    """
    if (env := load_settings().env) != "dev":
        sys.exit(ONLY_IN_DEV.format(env=env))
    seeds = _seeds(features)
    async with command_session() as session:
        for make_rows in seeds.values():
            await make_rows(session)
            await session.flush()
    return "".join(f"seeded {name}\n" for name in seeds)


def _seeds(features: Path) -> dict[str, Seed]:
    """The functions by the names of their slices, those of referenced tables first."""
    for models in sorted(features.rglob("models.py")):
        import_module(_module_of(models))
    modules = {
        path.parent.name: import_module(_module_of(path)) for path in features.glob("*/seed.py")
    }
    if not modules:
        raise CannotStart(NONE)
    return {name: _function_of(name, modules[name]) for name in sorted(modules, key=_place_of)}


def _function_of(name: str, module: ModuleType) -> Seed:
    function: Seed | None = getattr(module, "seed", None)
    if function is None or not iscoroutinefunction(function):
        raise CannotStart(NO_FUNCTION.format(name))
    return function


def _place_of(slice_: str) -> tuple[int, str]:
    """A sort key: behind the slices whose tables it references; without tables, at the end."""
    models = sys.modules.get(f"features.{slice_}.models")
    names = {getattr(value, "__tablename__", None) for value in vars(models or object).values()}
    tables = [table.name for table in SQLModel.metadata.sorted_tables]
    places = [place for place, name in enumerate(tables) if name in names]
    return (max(places, default=len(tables)), slice_)


def _module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)
