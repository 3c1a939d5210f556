"""A drill makes faults on purpose, and tells in rows of a table what must hold meanwhile."""

import asyncio
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One thing that must hold, and what was seen."""

    what: str
    figure: str
    holds: bool


Run = Callable[[Path], Awaitable[list[Row]]]


@dataclass(frozen=True)
class Drill:
    """A fault by its id, the programs that it needs, and the function that makes it in a folder."""

    name: str
    what: str
    programs: tuple[str, ...]
    run: Run


DRILLS: dict[str, Drill] = {}


def drill(name: str, what: str, *programs: str) -> Callable[[Run], Run]:
    """Enter a function into the table of drills."""

    def enter(run: Run) -> Run:
        DRILLS[name] = Drill(name, what, programs, run)
        return run

    return enter


def program(name: str) -> str | None:
    """Where a program lies; Debian has servers in a folder that is not in everybody's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


async def rows_of(each: Drill) -> list[Row]:
    """Run a drill. One whose program is missing has failed, and so has one that breaks off."""
    missing = [name for name in each.programs if program(name) is None]
    if missing:
        return [Row(each.what, f"{', '.join(missing)} is not installed", holds=False)]
    try:
        with tempfile.TemporaryDirectory(prefix="drill-") as folder:
            return await each.run(Path(folder))
    except Exception as error:  # noqa: BLE001  # whatever it is, the other drills go on
        traceback.print_exc()
        last = (str(error).splitlines() or [""])[0]
        return [Row(each.what, f"broke off: {type(error).__name__} {last}", holds=False)]


async def run_all(drills: Iterable[Drill]) -> bool:
    """Print a row for each thing that must hold; whether all do."""
    print("| drill | what must hold | seen | |\n|---|---|---|---|")
    hold = True
    for each in drills:
        began = time.monotonic()
        for row in await rows_of(each):
            hold = hold and row.holds
            verdict = "holds" if row.holds else "**fails**"
            print(f"| {each.name} | {row.what} | {row.figure} | {verdict} |", flush=True)
        print(f"{each.name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return hold


def main(names: list[str]) -> int:
    """Run the drills of these names, or all; the exit status."""
    unknown = [name for name in names if name not in DRILLS]
    if unknown:
        print(f"no such drill: {', '.join(unknown)}; there are {', '.join(DRILLS)}")
        return 2
    chosen = [DRILLS[name] for name in names or DRILLS]
    return 0 if asyncio.run(run_all(chosen)) else 1
