"""The walk over migrations sees what is wrong with a history, and says what to do."""

import re
import shutil

import pytest

from kernel.data.schema import find_heads
from kernel.settings import ROOT
from kernel.tests.test_scaffold import ELSEWHERE, python

STEP = """
import sqlalchemy as sa
from alembic import op

revision = {revision!r}
down_revision = {parents!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute({up!r})


def downgrade() -> None:
    {back}
"""
ADD, DROP = "ALTER TABLE users ADD extra int", "op.execute('ALTER TABLE users DROP extra')"
CHECK = "ALTER TABLE users ADD CONSTRAINT odd CHECK (id > 0) NOT VALID"
OUTLINE = (
    "\nOUTLINE = __import__('sqlalchemy').table('users', __import__('sqlalchemy').column('x'))\n"
)
# A table that only one of two branches makes, and the other one changes if it is there.
MAKE, UNMAKE = "CREATE TABLE herbs (id int)", "op.execute('DROP TABLE IF EXISTS herbs')"
GROW = "ALTER TABLE IF EXISTS herbs ADD extra int"
SHRINK = "op.execute('ALTER TABLE IF EXISTS herbs DROP COLUMN IF EXISTS extra')"


@pytest.fixture
def tree(tmp_path):
    return shutil.copytree(ROOT, tmp_path / "tree", ignore=ELSEWHERE)


def add(tree, revision, *parents, up="SELECT 1", back="pass"):
    """Write a revision behind others, or behind the head."""
    versions = tree / "migrations/versions"
    behind = parents or tuple(find_heads(versions))
    parents = behind if len(behind) > 1 else behind[0]
    text = STEP.format(revision=revision, parents=parents, up=up, back=back)
    (versions / f"{revision}_x.py").write_text(text)
    return revision


def said(tree, test):
    """What the walk's failing tests say, in one line."""
    status, output, errors = python(
        tree, "pytest", "-q", "-n0", "-W", "ignore", "tests/test_migrations.py", "-k", test
    )
    assert status != 0, output
    return re.sub(r"\s+(E\s+)?", " ", output + errors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tests", "up", "back", "told"),
    [
        ("way_back", ADD, "pass", ["new_x.py: write a downgrade() that takes upgrade() back"]),
        (
            "forward or the_way_back",
            ADD,
            "op.execute('CREATE TABLE IF NOT EXISTS left_over ()')",
            ["new_x.py: downgrade() does not lead back", "+ users.extra int", "is left: + r left_"],
        ),
        ("forward", ADD, "op.execute('SELECT nothing')", ["during: alembic downgrade"]),
        (
            "waiting",
            "CREATE INDEX i ON users (id)",
            DROP,
            ["new_x.py:12 upgrade() builds an index"],
        ),
        (
            "need_no or models_say",
            ADD,
            DROP,
            ["alembic revision --autogenerate", "a new migration: + users.extra integer"],
        ),
        ("convention", CHECK, DROP, ["+ users odd"]),
    ],
)
def test_a_bad_step_is_told(tree, tests, up, back, told):
    add(tree, "new", up=up, back=back)
    output = said(tree, tests)
    assert [each for each in told if each not in output] == []


@pytest.mark.slow
def test_branches_that_depend_on_their_order_are_told(tree):
    (head,) = find_heads(tree / "migrations/versions")
    one = add(tree, "one", head, up=MAKE, back=UNMAKE)
    other = add(tree, "other", head, up=GROW, back=SHRINK)
    add(tree, "both", one, other)
    told = said(tree, "one_schema")
    assert re.search(
        "both_x.py: databases that come from (one and from other|other and from one)", told
    )
    assert "herbs.extra integer" in told


@pytest.mark.slow
def test_two_heads_are_told(tree):
    (head,) = find_heads(tree / "migrations/versions")
    add(tree, "one", head)
    add(tree, "other", head)
    assert "(one, other): join them with `uv run python -m features merge`" in said(tree, "head")


@pytest.mark.slow
def test_an_untrue_outline_is_told(tree):
    models = tree / "features/users/models.py"
    models.write_text(models.read_text() + OUTLINE)
    assert "OUTLINE has columns that users does not have" in said(tree, "outline")
