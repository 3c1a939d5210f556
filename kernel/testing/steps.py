"""The lint of migrations: steps that would block a service in use, or break its running version.

A step is run as `alembic upgrade --sql` runs it, so all of its SQL is seen: of an operation, a
batch, raw SQL, a loop, a function. squawk (https://squawkhq.com) judges the SQL, and
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
    """Some SQL, and the lines of the migration that wrote it, innermost first. `is_wider`: it makes
    a text column longer."""

    sql: str
    lines: tuple[int, ...]
    is_wider: bool = False


class Recorder(io.StringIO):
    """The file that `--sql` writes to; it records statements with their places in the migration."""

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
    """A text for each unsafe step of a migration: its place, what is wrong, and what to do."""
    module, accepted = _load(path), Reasons(path.read_text())
    texts = []
    for function in ("upgrade", "downgrade"):
        statements, unread = _record(module, function, path)
        for rule, statement in [*_judge(statements), *unread]:
            # A downgrade goes back to the schema of the version that runs then: it cannot break it.
            is_harmless = rule in BREAKING and function == "downgrade"
            if not is_harmless and not any(accepted.at(line) for line in statement.lines):
                line = statement.lines[0] if statement.lines else 1
                texts.append(f"{path.name}:{line} {function}() {SAFE_WAYS[rule]}\n{ACCEPT}")
    return list(dict.fromkeys(texts))


def _load(path: Path) -> ModuleType:
    """Execute a migration's file as a module, so that its frames have this path."""
    loader = SourceFileLoader(path.stem, str(path))
    module = ModuleType(path.stem)
    loader.exec_module(module)
    return module


def _record(
    module: ModuleType, function: str, path: Path
) -> tuple[list[Statement], list[tuple[str, Statement]]]:
    """The statements of a step and, if it failed, an UNREADABLE one at that place."""
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
        except Exception as error:  # noqa: BLE001  # it needs a database, and fails in its own way
            places = reversed(traceback.extract_tb(error.__traceback__))
            lines = [frame.lineno or 1 for frame in places if frame.filename == str(path)]
            unread = [(UNREADABLE, Statement("", tuple(lines)))]
    return recorder.statements, unread


def _notice_wider_texts(context: MigrationContext, recorder: Recorder) -> None:
    """Mark a longer varchar, or text in its place, as safe: squawk does not know the old type."""
    alter_column: Callable[..., None] = context.impl.alter_column

    def alter_and_mark(
        *names: Any, type_: Any = None, existing_type: Any = None, **options: Any
    ) -> None:
        recorder.is_wider = (
            isinstance(type_, String)
            and isinstance(existing_type, String)
            and (type_.length is None or (existing_type.length or type_.length) < type_.length)
        )
        alter_column(*names, type_=type_, existing_type=existing_type, **options)
        recorder.is_wider = False

    context.impl.alter_column = alter_and_mark  # type: ignore[method-assign]  # of this one context


def _judge(statements: list[Statement]) -> Iterator[tuple[str, Statement]]:
    """The rules that statements break, but for tables that this migration has created."""
    # Each ends with a semicolon of its own: the one that Alembic adds may be within a comment.
    texts = [f"{statement.sql.strip()}\n;\n" for statement in statements]
    counts = [text.count("\n") for text in texts]
    by_line = [one for one, lines in zip(statements, counts, strict=True) for _ in range(lines)]
    made: set[str] = set()
    complaints = _squawk("".join(texts))
    for statement in statements:
        made |= tables_made(statement.sql)
        rules = {rule for rule, line in complaints if by_line[line] is statement}
        for rule in unsafe(statement.sql, rules, made):
            if not (rule == "changing-column-type" and statement.is_wider):
                yield rule, statement


def _squawk(sql: str) -> list[tuple[str, int]]:
    """The rules of squawk's that the SQL breaks, each with a line (0 is the first).

    Raises:
        RuntimeError: squawk is not installed, or failed.
    """
    program = shutil.which("squawk", path=sysconfig.get_path("scripts")) or shutil.which("squawk")
    if not program:
        raise RuntimeError("the lint of migrations needs squawk: run `uv sync`")
    process = subprocess.run(
        [program, *OPTIONS], input=sql, capture_output=True, text=True, check=False
    )
    if process.returncode not in {0, 1}:
        raise RuntimeError(f"squawk failed: {process.stderr}")
    return [(breach["rule_name"], breach["line"]) for breach in json.loads(process.stdout)]
