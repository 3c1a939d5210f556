"""What the README shows is what happens."""

import re
import shutil
import subprocess
import sys
from textwrap import dedent

import pytest
from anyio import to_thread

from features.kernel.settings import ROOT, Settings
from tests.processes import serve

README = (ROOT / "README.md").read_text()
BLOCKS = [
    dedent(block)
    for block in re.findall(r"^ *```\w+\n(.*?)^ *```$", README, re.DOTALL | re.MULTILINE)
]
EXAMPLES = [block for block in BLOCKS if "curl" in block]
WALKS = [f"tests/test_{name}.py" for name in ("architecture", "authorization", "boundary")]
FILES = {block.splitlines()[0][2:]: block for block in BLOCKS if block.startswith("# ")}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_in_the_table_with_its_default(name):
    rows = [re.split(r" *\| *", line)[1:4] for line in README.splitlines() if line[:6] == "| `APP"]
    defaults = {
        variable: value
        for names, values, _ in rows
        for variable, value in zip(names.split(", "), values.split(", "), strict=True)
    }
    default = Settings.model_fields[name].default
    shown = defaults[f"`APP_{name.upper()}`"]
    assert default is None or shown == f"`{str(default).removesuffix('.0')}`"


async def test_the_examples_give_what_they_say(database):
    async with (
        database() as url,
        serve(ROOT, database_url=url, jwt_secret="readme" * 6) as service,
    ):
        script = "\n".join(f"echo '#=' {n}\n{line}" for n, line in enumerate(lines()))
        script = script.replace("localhost:8000", f"127.0.0.1:{service.port}")
        done = await to_thread.run_sync(
            lambda: subprocess.run(["bash", "-euc", script], capture_output=True, check=False)
        )
    assert done.returncode == 0, done.stderr.decode()
    said = dict(part.split("\n", 1) for part in done.stdout.decode().split("#= ")[1:])
    for number, line in enumerate(lines()):
        for expected in expectations(number):
            assert expected in said[str(number)], f"{line}\n{said[str(number)]}"


def lines():
    return [line for block in EXAMPLES for line in block.splitlines() if line[0] != "#"]


def expectations(number):
    """The `#>` lines behind a command."""
    seen, found = -1, []
    for line in (line for block in EXAMPLES for line in block.splitlines()):
        if line.startswith("#>"):
            found += [line[3:]] if seen == number else []
        else:
            seen += 1
    return found


if not (ROOT / "features/items").exists():
    del test_the_examples_give_what_they_say  # they are about items


@pytest.mark.slow
async def test_the_feature_of_the_tour_works(tmp_path):
    for name in ("service.py", "pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("features", "migrations", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "features/notes").mkdir()
    (tmp_path / "features/notes/__init__.py").touch()
    for path, text in FILES.items():
        if path.startswith("features/"):
            (tmp_path / path).write_text(text.split("\n", 1)[1])
    mount(tmp_path / "service.py", *filter(None, FILES["service.py"].splitlines()[1:]))
    for command in (
        ["alembic", "upgrade", "head"],
        ["alembic", "revision", "--autogenerate", "-m", "notes"],
        ["ruff", "check", "features/notes", "service.py"],
        ["ruff", "format", "--check", "features/notes", "migrations"],
        ["pytest", "-q", "-n0", "features/notes", *WALKS, "-k", "note"],
    ):
        done = await to_thread.run_sync(run, command, tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout.decode()}{done.stderr.decode()}"


def mount(service, imported, included):
    text = service.read_text()
    text = text.replace("from features.users import", f"{imported}\nfrom features.users import")
    service.write_text(text.replace("    return app\n", f"    {included}\n    return app\n"))


def run(command, folder):
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, check=False
    )
