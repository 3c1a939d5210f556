"""What a migration would do to a service in use: keep it waiting, or break the version that runs.

The step is run as `alembic upgrade --sql` runs it, so its SQL is seen whatever wrote it: an
operation, a batch, raw SQL, a loop, a function. squawk (https://squawkhq.com) judges the SQL, and
`kernel.testing.safe_ways` says what to do instead.
"""

import io
import json
import shutil
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import String

from kernel.testing.patterns import tables_made, unsafe
from kernel.testing.reasons import Reasons
from kernel.testing.safe_ways import ACCEPT, BREAKING, SAFE_WAYS, UNREADABLE

OPTIONS = ["--reporter", "json", "--pg-version", "18"]


@dataclass(frozen=True)
class Statement:
    """Some SQL, and the lines of the migration that wrote it, innermost first."""

    sql: str
    lines: tuple[int, ...]
    is_wider: bool = False


class Recorder(io.StringIO):
    """Takes the place of the file that `--sql` writes to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = str(path)
        self.statements: list[Statement] = []
        self.is_wider = False

    def write(self, sql: str) -> int:
        lines = tuple(self._lines(sys._getframe(1)))  # inspect's is 100 times slower
        self.statements.append(Statement(sql, lines, self.is_wider))
        return len(sql)

    def _lines(self, frame: FrameType | None) -> Iterator[int]:
        while frame:
            if frame.f_code.co_filename == self.path:
                yield frame.f_lineno
            frame = frame.f_back


def unsafe_steps(path: Path) -> list[str]:
    """What is unsafe in a migration, with its place and the safe way: a text each."""
    module, accepted = _load(path), Reasons(path.read_text())
    found = []
    for function in ("upgrade", "downgrade"):
        statements, unread = _record(module, function, path)
        for rule, statement in [*_judge(statements), *unread]:
            # A way back is walked by the version that it leads to: it cannot break that.
            is_moot = rule in BREAKING and function == "downgrade"
            if not is_moot and not any(accepted.at(line) for line in statement.lines):
                line = statement.lines[0] if statement.lines else 1
                found.append(f"{path.name}:{line} {function}() {SAFE_WAYS[rule]}\n{ACCEPT}")
    return list(dict.fromkeys(found))


def _load(path: Path) -> ModuleType:
    """A migration's file, run as a module of its own, so that its frames have this very path."""
    loader = SourceFileLoader(path.stem, str(path))
    module = ModuleType(path.stem)
    loader.exec_module(module)
    return module


def _record(
    module: ModuleType, function: str, path: Path
) -> tuple[list[Statement], list[tuple[str, Statement]]]:
    """The SQL of a step, and what could not be read of it."""
    recorder = Recorder(path)
    context = MigrationContext.configure(
        dialect_name="postgresql",
        opts={"as_sql": True, "output_buffer": recorder, "literal_binds": True},
    )
    _notice_wider_texts(context, recorder)
    unread = []
    with context.begin_transaction(_per_migration=False), Operations.context(context):
        try:
            getattr(module, function)()
        except Exception as error:  # noqa: BLE001  # whatever it wanted is not there
            places = reversed(traceback.extract_tb(error.__traceback__))
            lines = [each.lineno or 1 for each in places if each.filename == str(path)]
            unread = [(UNREADABLE, Statement("", tuple(lines)))]
    return recorder.statements, unread


def _notice_wider_texts(context: MigrationContext, recorder: Recorder) -> None:
    """A longer varchar, or text in its place, is another type only to who does not know the old."""
    alter_column: Callable[..., None] = context.impl.alter_column

    def noticing(*names: Any, type_: Any = None, existing_type: Any = None, **options: Any) -> None:
        recorder.is_wider = (
            isinstance(type_, String)
            and isinstance(existing_type, String)
            and (type_.length is None or (existing_type.length or type_.length) < type_.length)
        )
        alter_column(*names, type_=type_, existing_type=existing_type, **options)
        recorder.is_wider = False

    context.impl.alter_column = noticing  # type: ignore[method-assign]  # of this one context


def _judge(statements: list[Statement]) -> Iterator[tuple[str, Statement]]:
    """The rules that statements break, but for tables that nobody knows yet."""
    # Each ends with a semicolon of its own: the one that Alembic adds may be within a comment.
    texts = [f"{each.sql.strip()}\n;\n" for each in statements]
    lines = [text.count("\n") for text in texts]
    by_line = [each for each, n in zip(statements, lines, strict=True) for _ in range(n)]
    made: set[str] = set()
    complaints = _squawk("".join(texts))
    for statement in statements:
        made |= tables_made(statement.sql)
        rules = {rule for rule, line in complaints if by_line[line] is statement}
        for rule in unsafe(statement.sql, rules, made):
            if not (rule == "changing-column-type" and statement.is_wider):
                yield rule, statement


def _squawk(sql: str) -> list[tuple[str, int]]:
    """The rules that squawk sees broken, each with a line."""
    program = shutil.which("squawk", path=sysconfig.get_path("scripts")) or shutil.which("squawk")
    if not program:
        raise RuntimeError("the lint of migrations needs squawk: run `uv sync`")
    done = subprocess.run(
        [program, *OPTIONS], input=sql, capture_output=True, text=True, check=False
    )
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"squawk failed: {done.stderr}")
    return [(each["rule_name"], each["line"]) for each in json.loads(done.stdout)]
