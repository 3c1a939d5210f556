"""What README.md, and the guide for the slice that it makes, show is what happens."""

import re
import shlex
import shutil
import subprocess
from textwrap import dedent

import pytest
from anyio import to_thread

from kernel.settings import ROOT, Settings
from kernel.tests.processes import serve
from kernel.tests.test_scaffold import ELSEWHERE, works

# A team has a README of its own.
pytestmark = pytest.mark.house
README = path.read_text() if (path := ROOT / "README.md").exists() else ""
GUIDE = (ROOT / "docs/guide.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()
MOST_LINES = 220


def blocks(document):
    found = re.findall(r"^ *```\w+\n(.*?)^ *```$", document, re.DOTALL | re.MULTILINE)
    return [dedent(block) for block in found]


EXAMPLES = [block for block in blocks(README) if "curl" in block]
CHANGE = re.findall("^uv run alembic .*|^uv run .* contract$", GUIDE, re.MULTILINE)
FILES = [
    block[2:].split("\n", 1) for block in blocks(GUIDE) if block.startswith("# features/invoices/")
]


def test_the_front_door_is_short():
    assert README.count("\n") <= MOST_LINES, "README.md: move something into docs/"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_in_the_table_with_its_default(name):
    rows = [
        re.split(r" *\| *", line)[1:4] for line in SETTINGS.splitlines() if line[:6] == "| `APP"
    ]
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
            for part in expected.split("…"):
                assert part in said[str(number)], f"{line}\n{said[str(number)]}"


if not (ROOT / "features/items").exists():
    del test_the_examples_give_what_they_say  # they are about items


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


def test_the_tour_is_what_happens(tmp_path):
    tree = shutil.copytree(ROOT, tmp_path / "tree", ignore=ELSEWHERE)
    (new,) = re.findall("^uv run python -m (features new .*)$", README, re.MULTILINE)
    works(tree, *shlex.split(new))
    assert {path.split("/")[-1] for path, _ in FILES} == {
        *("models.py", "handlers.py", "router.py", "test_invoices.py")
    }
    (operation,) = [block for block in blocks(README) if block.startswith("@router")]
    assert operation in (tree / "features/invoices/router.py").read_text()
    for path, shown in FILES:
        written = (tree / path).read_text()
        assert shown == written or ("/test_" in path and f"\n{shown}" in written)
    works(tree, "pytest", "-q", "features/invoices", "tests", "-k", "invoice")
    # A field more.
    models = tree / "features/invoices/models.py"
    due = "    due: Day | None = None\n"
    models.write_text(models.read_text().replace(due, f"{due}    paid: Day | None = None\n"))
    for command in CHANGE:
        works(tree, *shlex.split(command.removeprefix("uv run ").removeprefix("python -m ")))
    works(tree, "pytest", "-q", "tests/test_migrations.py", "tests/test_openapi.py")
    (made,) = (tree / "migrations/versions").glob("*_invoices_are_paid.py")
    assert re.match(r"\d{8}T\d{6}_\w{4}_", made.name)


if (ROOT / "features/invoices").exists():
    del test_the_tour_is_what_happens  # somebody has gone it
