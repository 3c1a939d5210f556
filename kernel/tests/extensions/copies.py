"""A copy of the service's tree, changed as its team would change it: without touching `kernel/`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from kernel.dev.scaffold.mount import mount
from kernel.settings import ROOT

OURS = ("APP_", "MAIL_", "PYTEST_")
# A team's tests without the walks that send the most requests: half of the time.
WALKS = [
    f"tests/test_{name}.py" for name in ("authorization", "boundary", "contract", "round_trips")
]
SUITE = ("features", "tests", *(f"--ignore={walk}" for walk in WALKS))
MIGRATION = '''"""{slug}

Revision ID: {revision}
Revises: {head}
"""

{imports}from alembic import op

revision = "{revision}"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
{upgrade}

def downgrade() -> None:
{downgrade}'''


@dataclass
class Done:
    """A command that has ended."""

    status: int
    output: str
    errors: str


class Copy:
    """A copy of the tree in a folder, and what a team does with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tests: list[str] = []
        """The files of tests that were written into it."""

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    def write(self, name: str, text: str) -> None:
        """Write a file of the team's; a file of tests is noted as one to pass."""
        assert not name.startswith("kernel/"), f"{name} is the kernel's"
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.name.startswith("test_"):
            self.tests.append(name)

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a piece of a file, wherever it is there."""
        text = self.read(name)
        assert old in text, f"{name} has no {old!r}"
        self.write(name, text.replace(old, new))

    def edit_tests(self, old: str, new: str) -> None:
        """Replace a piece of the slices' tests, in whichever it is."""
        for path in sorted(self.root.glob("features/*/test_*.py")):
            if old in path.read_text():
                name = path.relative_to(self.root).as_posix()
                self.edit(name, old, new)
                self.works("ruff", "format", "--quiet", name)

    def add_slice(self, name: str, files: Mapping[str, str], *, is_mounted: bool = True) -> None:
        """Write a slice, and mount it in `service.py`."""
        for file, text in {"__init__.py": "", **files}.items():
            self.write(f"features/{name}/{file}", text)
        if is_mounted:
            self.write("service.py", mount(self.read("service.py"), name))
            self.works("ruff", "check", "--quiet", "--fix", "--select", "I", "service.py")

    def add_migration(self, slug: str, upgrade: str, downgrade: str) -> None:
        """Write the next revision."""
        config = Config()
        config.set_main_option("script_location", str(self.root / "migrations"))
        head = ScriptDirectory.from_config(config).get_current_head()
        revision = f"{datetime.now(UTC):%Y%m%d%H%M%S}_{slug}"
        imports = "import sqlalchemy as sa\n" if "sa." in upgrade + downgrade else ""
        text = MIGRATION.format(
            slug=slug,
            revision=revision,
            head=head,
            imports=imports,
            upgrade=upgrade,
            downgrade=downgrade,
        )
        self.write(f"migrations/versions/{revision}.py", text)

    def run(self, *arguments: str, **environment: str) -> Done:
        """Run a module of Python's in the copy: `copy.run("pytest", "features")`."""
        own = {name: each for name, each in os.environ.items() if not name.startswith(OURS)}
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            env={**own, "PYTHONPATH": str(self.root), **environment},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def works(self, *arguments: str) -> str:
        """Run a module, which has to succeed, and give what it says."""
        done = self.run(*arguments)
        lines = [line for line in done.output.splitlines() if not line.startswith("PASSED")]
        told = "\n".join([" ".join(arguments), *lines[-150:], done.errors[-3000:]])
        assert done.status == 0, told
        return done.output

    def passes(self, *suite: str) -> None:
        """Accept the contract, and run the tests, which have to pass: those that were written into
        the copy among them."""
        self.works("features", "contract")
        self.passes_tests(*suite)
        assert sources(self.root) == sources(ROOT), "kernel/ is not as it was"

    def passes_tests(self, *suite: str) -> None:
        """Run the tests, which have to pass, and those that were written into the copy to run."""
        passed = self.works("pytest", "-q", "-rp", "-n0", "-p", "no:randomly", *suite)
        missing = [name for name in self.tests if f"PASSED {name}::" not in passed]
        assert missing == [], f"never run: {missing}"


def copy_to(folder: Path) -> Copy:
    """A copy of what git has, or would be given."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    # With the times of files that keep them valid: imports are faster.
    for compiled in ("features", "kernel", "tests"):
        for cache in (ROOT / compiled).rglob("__pycache__"):
            if (place := folder / cache.relative_to(ROOT)).parent.exists():
                shutil.copytree(cache, place)
    return Copy(folder)


def sources(root: Path) -> dict[str, bytes]:
    """The kernel's files, by their paths."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in (root / "kernel").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
