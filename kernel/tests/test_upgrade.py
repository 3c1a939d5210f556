"""Branches with a slice each are merged as docs/upgrading.md says, and every database follows."""

import re
import subprocess
import sys
from contextlib import AsyncExitStack

import asyncpg
import pytest

from kernel.data.schema import find_heads
from kernel.settings import ROOT
from kernel.testing.history import empty_database, query, shape
from kernel.tests import forks
from kernel.tests.extensions.copies import SUITE, sources

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
# The first is the team's own, the next two are of the feature that it has removed, and the last two
# are for `features merge`.
CONFLICTS = [
    "README.md",
    "features/items/models.py",
    "features/items/test_items.py",
    "openapi.json",
    "service.py",
]


@pytest.fixture
def upstream(tmp_path):
    """A repository of this very tree."""
    return forks.make_upstream(tmp_path / "upstream")


@pytest.fixture
def branches(upstream, tmp_path):
    """Two clones, each with a slice of its own."""
    trees = []
    for name, fields in {"turnips": "title:str owner", "beets": "on:bool"}.items():
        tree = upstream.clone(tmp_path / name)
        tree.add_feature(name, *fields.split())
        tree.commit(f"features: {name}")
        trees.append(tree)
    return trees


def merge(tree, other):
    """Merge as docs/upgrading.md says; returns the files in conflict."""
    tree.git("fetch", "--quiet", str(other.root), "main")
    tree.git("merge", "--quiet", "FETCH_HEAD", status=1)
    conflicts = tree.conflicts()
    tree.works("features", "merge")
    tree.commit("merge")
    return conflicts


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


def test_the_guide_to_upgrading_has_130_lines_at_most():
    assert len(UPGRADING.splitlines()) <= 130


@pytest.mark.house
def test_the_guide_counts_the_conflicts_of_the_fork_below():
    counted = UPGRADING.split("The conflicts were five:")[1].split("Others are possible:")[0]
    assert re.findall(r"^\| `([\w./]+)`", counted, re.MULTILINE) == CONFLICTS


@pytest.fixture
async def databases(postgres, worker_id):
    """One's, another's, and a new one, each with a log of the steps that it gets."""
    async with AsyncExitStack() as stack:
        urls = [
            await stack.enter_async_context(empty_database(postgres, worker_id)) for _ in range(3)
        ]
        for url in urls:
            await execute(url, LOGGED)
        yield urls


async def follow(tree, databases):
    """Bring every database to the tree's head: each has every step once, and all are alike."""
    assert len(find_heads(tree.revisions())) == 1
    stems = sorted(path.stem for path in tree.revisions().glob("*.py"))
    for url in databases:
        tree.alembic(url, "upgrade", "head")
        steps = sorted(await applied(url))
        assert len(steps) == len(stems), steps
        assert all(stem.startswith(f"{step}_") for stem, step in zip(stems, steps, strict=True))
        assert await shape(url) == await shape(databases[0])


@pytest.mark.slow(seconds=20)
async def test_two_branches_become_one_and_every_database_gets_every_step_once(branches, databases):
    for tree, url in zip(branches, databases, strict=False):  # deployed before they are merged
        tree.alembic(url, "upgrade", "head")
    merged, _ = branches
    assert merge(*branches) == ["openapi.json"]
    await follow(merged, databases)
    merged.works("ruff", "check")
    merged.works("ruff", "format", "--check")
    # The walk goes through the fork and the merge, in both orders.
    merged.works("pytest", "-q", "-n0", "tests/test_migrations.py")


@pytest.mark.house
@pytest.mark.slow(seconds=65)
async def test_a_fork_takes_over_a_later_upstream_and_every_database_follows(
    upstream, databases, tmp_path
):
    mine, theirs, _ = databases
    fork = upstream.clone(tmp_path / "fork")
    forks.settle(fork, mine)
    forks.release(upstream, theirs)
    old = fork.clone(tmp_path / "old")
    assert old.serve(mine, "Victoria") == ["Victoria"]
    conflicts = forks.merge(fork)
    assert conflicts == CONFLICTS, f"the merge has {len(conflicts)} conflicts: {conflicts}"
    assert "breaks clients" not in forks.resolve(fork)
    steps = await applied(mine)
    failed = fork.run("alembic", "upgrade", "head", APP_DATABASE_URL=mine)
    assert 'relation "items" does not exist' in failed.output
    assert await applied(mine) == steps
    forks.take_out(fork, "items")
    fork.commit("Merge Julienne 1")
    await follow(fork, databases)
    fork.alembic(mine, "check")
    assert old.serve(mine, "Mirabelle") == ["Mirabelle", "Victoria"]
    assert fork.serve(mine, "Greengage") == ["Greengage", "Mirabelle", "Victoria"]
    fork.works("ruff", "check")
    fork.works("ruff", "format", "--check")
    fork.passes_tests(*SUITE)
    assert sources(fork.root) == sources(upstream.root)
