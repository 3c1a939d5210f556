"""One line for an error that stopped a migration: where, what, and what to do."""

import traceback
from collections.abc import Iterator
from pathlib import Path

from kernel.driver_errors import driver_error
from kernel.settings import ROOT
from kernel.tracebacks import summarize

# A team's own migrations and tables: the error's line is looked for here.
TEAM_FOLDERS = (ROOT / "migrations" / "versions", ROOT / "features")
UNKNOWN = (
    "the database is at the revision {}, which no file in migrations/versions has: get the branch"
    " that has it, or empty a database of development with `uv run python -m features reset`"
)
WAITED = "another process has been migrating the database for too long: look for what blocks it"
FAILED = "{}: correct it, and start again"
ELSEWHERE = "the migrations cannot be run: {}"


def explain(error: BaseException, *, full: bool = False) -> str:
    """The line. With `full`, it has the error's message even where that may contain values."""
    errors = [*_chain(error)]
    # Of Alembic's ResolutionError, which is not imported: most starts need no migration.
    unknown = [name for part in errors if (name := getattr(part, "argument", None))]
    if unknown and "Can't locate revision" in str(error):
        return UNKNOWN.format(unknown[0])
    if type(error).__name__ == "CommandError":  # Alembic's own, whose text names the revisions
        return str(error)
    places = [place for part in errors if (place := _place(part))]
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
    """The file and line of the error in a team's folders, or None."""
    frames = traceback.extract_tb(error.__traceback__)
    places: list[tuple[str | None, int | None]] = [
        (frame.filename, frame.lineno) for frame in frames
    ]
    if isinstance(error, SyntaxError):
        places.append((error.filename, error.lineno))
    for name, line in reversed(places):
        path = Path(name or "").resolve()
        if any(path.is_relative_to(folder) for folder in TEAM_FOLDERS):
            return f"{path.relative_to(ROOT)}, line {line}"
    return None
