"""What has stopped a migration, in one line: where, what, and what to do."""

import traceback
from collections.abc import Iterator
from pathlib import Path

from kernel.driver_errors import driver_error
from kernel.settings import ROOT
from kernel.tracebacks import summarize

# Where a team's own steps and tables are.
OWN = (ROOT / "migrations" / "versions", ROOT / "features")
UNKNOWN = (
    "the database is at the revision {}, which no file in migrations/versions has: get the branch"
    " that has it, or empty a database of development with `uv run python -m features reset`"
)
WAITED = "somebody else has been migrating the database for too long: look for what holds them up"
FAILED = "{}: mend it, and start again"
ELSEWHERE = "the migrations cannot be run: {}"


def explain(error: BaseException, *, full: bool = False) -> str:
    """The line; with `full`, the error's message is in it even if that may hold values."""
    links = [*_chain(error)]
    # Alembic's ResolutionError; its module is not imported for a start that has nothing to do.
    unknown = [name for each in links if (name := getattr(each, "argument", None))]
    if unknown and "Can't locate revision" in str(error):
        return UNKNOWN.format(unknown[0])
    if type(error).__name__ == "CommandError":  # of Alembic, which speaks of revisions
        return str(error)
    places = [place for each in links if (place := _place(each))]
    if isinstance(error, TimeoutError) and not places:
        return WAITED
    summary = _summary(error, full=full)
    return FAILED.format(f"{places[0]}: {summary}") if places else ELSEWHERE.format(summary)


def _summary(error: BaseException, *, full: bool) -> str:
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return " ".join(summarize(driver_error(error), full=full).split())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> str | None:
    """The file and the line of the error, if they are the team's."""
    frames = traceback.extract_tb(error.__traceback__)
    places: list[tuple[str | None, int | None]] = [(each.filename, each.lineno) for each in frames]
    if isinstance(error, SyntaxError):
        places.append((error.filename, error.lineno))
    for name, line in reversed(places):
        path = Path(name or "").resolve()
        if any(path.is_relative_to(folder) for folder in OWN):
            return f"{path.relative_to(ROOT)}, line {line}"
    return None
