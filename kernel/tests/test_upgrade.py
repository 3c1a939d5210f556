"""Branches with a slice each are merged as docs/upgrading.md says, and every database follows."""

import os
import re
import shutil
import subprocess
import sys

import asyncpg
import pytest
from anyio import to_thread

from kernel.data.schema import find_heads
from kernel.settings import ROOT
from kernel.testing.history import empty_database, query, shape
from kernel.tests.test_scaffold import ELSEWHERE, works

UPGRADING = (ROOT / "docs/upgrading.md").read_text()
# Whatever Alembic writes down is kept, in its order.
LOGGED = """
    CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
    CREATE SCHEMA log;
    CREATE TABLE log.steps (n serial, revision text);
    CREATE FUNCTION log.step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO log.steps (revision) VALUES (NEW.version_num);
        RETURN NEW;
    END $$;
    CREATE TRIGGER step BEFORE INSERT OR UPDATE ON alembic_version
        FOR EACH ROW EXECUTE FUNCTION log.step();
"""
NOBODY = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")


def git(tree, *words, status=0):
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", *NOBODY, *words],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == status, f"git {words}\n{done.stdout}{done.stderr}"
    return done.stdout


def commit(tree, message):
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", message)


@pytest.fixture
def upstream(tmp_path):
    """A repository of this very tree, whatever of it is committed here."""
    tree = shutil.copytree(ROOT, tmp_path / "upstream", ignore=ELSEWHERE)
    git(tree, "init", "--quiet", "--initial-branch=main")
    commit(tree, "upstream")
    return tree


@pytest.fixture
def branches(upstream, tmp_path):
    """Two clones, each with a slice of its own."""
    trees = []
    for name, fields in {"turnips": "title:str owner", "beets": "on:bool"}.items():
        tree = tmp_path / name
        git(tmp_path, "clone", "--quiet", str(upstream), name)
        works(tree, "features", "new", name, *fields.split())
        commit(tree, f"features: {name}")
        trees.append(tree)
    return trees


def merge(tree, other):
    """Merge as docs/upgrading.md says; returns the files in conflict."""
    git(tree, "fetch", "--quiet", str(other), "main")
    git(tree, "merge", "--quiet", "FETCH_HEAD", status=1)
    conflicts = git(tree, "diff", "--name-only", "--diff-filter=U").split()
    assert {*conflicts} <= {*re.findall(r"^\| `([\w./]+)`", UPGRADING, re.MULTILINE)}
    keep_both(tree / "service.py")
    git(tree, "checkout", "--ours", "openapi.json")
    works(tree, "features", "merge")
    commit(tree, "merge")
    return conflicts


def keep_both(path):
    """Take the lines of both sides, without git's marks."""
    lines = path.read_text().splitlines(keepends=True)
    marks = ("<<<<<<< ", "=======\n", ">>>>>>> ")
    path.write_text("".join(line for line in lines if not line.startswith(marks)))


async def migrate(tree, url):
    def run():
        return subprocess.run(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "APP_DATABASE_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )

    done = await to_thread.run_sync(run)
    assert done.returncode == 0, done.stderr


async def execute(url, script):
    connection = await asyncpg.connect(url)
    await connection.execute(script)
    await connection.close()


async def applied(url):
    return [row["revision"] for row in await query(url, "SELECT * FROM log.steps ORDER BY n")]


def test_a_column_that_waits_for_its_end_is_in_the_table_and_not_in_the_model():
    (block,) = re.findall(r"```python\n(# features/users/models.py\n.*?)```", UPGRADING, re.DOTALL)
    script = f"""
from sqlalchemy import Column, String
from sqlmodel import SQLModel, select
from features.users.models import User
{block}
assert "nickname" in User.__table__.c
assert "nickname" not in str(select(User))
User(email="a@example.com")
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_the_guide_to_upgrading_has_120_lines_at_most():
    assert len(UPGRADING.splitlines()) <= 120


@pytest.mark.slow
async def test_two_branches_become_one_and_every_database_gets_every_step_once(
    branches, postgres, worker_id
):
    async with (
        empty_database(postgres, worker_id) as one,
        empty_database(postgres, worker_id) as other,
        empty_database(postgres, worker_id) as new,
    ):
        databases = [one, other, new]
        for url in databases:
            await execute(url, LOGGED)
        for tree, url in zip(branches, databases, strict=False):  # deployed before they are merged
            await migrate(tree, url)
        merged, _ = branches
        assert merge(*branches) == ["openapi.json", "service.py"]
        revisions = [path.stem for path in (merged / "migrations/versions").glob("*.py")]
        assert len(find_heads(merged / "migrations/versions")) == 1
        for url in databases:
            await migrate(merged, url)
            steps = await applied(url)
            assert len(steps) == len(revisions)
            assert all(stem.startswith(f"{step}_") for stem, step in pairs(revisions, steps))
            assert await shape(url) == await shape(one)
    works(merged, "ruff", "check")
    works(merged, "ruff", "format", "--check")
    # The walk goes through the fork and the merge, in both orders.
    works(merged, "pytest", "-q", "-n0", "tests/test_migrations.py")


def pairs(revisions, steps):
    return zip(sorted(revisions), sorted(steps), strict=True)
