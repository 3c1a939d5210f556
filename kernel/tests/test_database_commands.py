"""`python -m features psql` and `reset`: the development database, by hand and anew."""

import os
import subprocess
import sys

import asyncpg
import pytest

from kernel.dev import database as database_commands
from kernel.dev import defaults
from kernel.settings import ROOT
from kernel.tests.processes import variables_of_slices

ELSEWHERE = {"APP_DATABASE_URL": "postgresql://a@localhost/b"}
IN_PROD = ELSEWHERE | {"APP_ENV": "prod", "APP_JWT_SECRET": "8b1f0c67d2e94a35" * 2}


def features(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "features", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | variables_of_slices() | variables,
        input="n\n",
        capture_output=True,
        text=True,
        check=False,
    )


async def test_the_prompt_is_psql_in_the_role_of_the_service(database):
    async with database() as url:
        done = features("psql", "-XAtc", "SELECT current_user, 1 + 1", APP_DATABASE_URL=url)
        failed = features("psql", "-c", "SELECT 1 / 0", APP_DATABASE_URL=url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "app|2\n", "")
    assert failed.returncode == 1


async def test_a_reset_leaves_an_empty_database_of_the_newest_schema(monkeypatch, tmp_path):
    monkeypatch.setattr(defaults, "FOLDER", tmp_path / "pg")
    for name in ("APP_DATABASE_URL", "APP_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(database_commands, "FOLDER", tmp_path / "pg")
    async with defaults.embedded_database() as url:
        stored = await asyncpg.connect(url)
        revision = await stored.fetchval("SELECT version_num FROM alembic_version")
        await stored.execute("CREATE TABLE left_over (id int); DELETE FROM alembic_version")
        await database_commands.reset()  # with somebody on it, such as the service
        assert await stored.fetchval("SELECT to_regclass('left_over')") is None
        assert await stored.fetchval("SELECT version_num FROM alembic_version") == revision
        await stored.close()


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "words"),
    [
        (["reset"], {}, 0, "nothing is changed"),
        (["reset", "--yes"], ELSEWHERE, 1, "not for APP_DATABASE_URL"),
        (["reset", "--yes"], IN_PROD, 1, "APP_ENV is prod"),
        (["psql"], IN_PROD, 1, "APP_ENV is prod"),
        (["reset", "--all"], {}, 2, "unrecognized arguments: --all"),
    ],
)
def test_what_would_be_a_mistake_is_refused_in_a_line(arguments, variables, status, words):
    done = features(*arguments, **variables)
    assert done.returncode == status
    assert (done.stdout + done.stderr).strip().endswith(words)
    assert len((done.stdout + done.stderr).splitlines()) == 1
