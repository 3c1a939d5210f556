"""`python -m features seed` makes rows to develop with, and nowhere else."""

import sys
from types import ModuleType

import pytest
from sqlalchemy import text
from sqlmodel import select

from kernel.dev import seeds
from kernel.errors import CannotStart
from kernel.tests.peelings.models import Peeling

# Whatever columns an account has to have.
PEOPLE = "UPDATE users SET full_name = 'Seeded'"
NAMES = "SELECT full_name FROM users"


async def people(session):
    await session.exec(text(PEOPLE))


async def peelings(session):
    """What looks first, and refers to what the other one has made."""
    owner_id = (await session.exec(text("SELECT id FROM users"))).scalar_one()
    if (await session.exec(select(Peeling))).first() is None:
        session.add(Peeling(title="Soup", owner_id=owner_id))


@pytest.fixture
def slices(monkeypatch, tmp_path, settings, sql):
    """Slices with these functions, and the tests' database as that of development."""
    monkeypatch.setenv("APP_DATABASE_URL", settings.primary_url)
    monkeypatch.setattr(seeds, "ROOT", tmp_path)

    def slices(**functions):
        for name, function in functions.items():
            folder = tmp_path / "features" / name
            folder.mkdir(parents=True)
            (folder / "seed.py").touch()
            module = ModuleType("seed")
            module.seed = function
            monkeypatch.setitem(sys.modules, f"features.{name}.seed", module)
        return tmp_path / "features"

    models = sys.modules["kernel.tests.peelings.models"]
    monkeypatch.setitem(sys.modules, "features.peelings.models", models)
    return slices


async def test_slices_make_their_rows_in_the_order_of_references_and_once(slices, sql, alice):
    folder = slices(peelings=peelings, users=people)
    for _ in range(2):
        assert await seeds.seed(folder) == "seeded users\nseeded peelings\n"
    assert [row["title"] for row in await sql.fetch("SELECT title FROM peelings")] == ["Soup"]
    assert await sql.fetchval(NAMES) == "Seeded"


async def test_the_seed_of_a_slice_without_a_table_runs_last(slices):
    async def nothing(session): ...

    told = await seeds.seed(slices(aaa=nothing, peelings=nothing, users=nothing))
    assert told == "seeded users\nseeded peelings\nseeded aaa\n"


async def test_if_one_seed_fails_nothing_is_stored(slices, sql, alice):
    async def fails(session):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await seeds.seed(slices(peelings=fails, users=people))
    assert await sql.fetchval(NAMES) == "Alice"


@pytest.mark.parametrize("function", [None, lambda session: None])
async def test_a_file_without_its_function_is_told(slices, function):
    with pytest.raises(CannotStart, match=r"features/users/seed\.py should have: async def seed"):
        await seeds.seed(slices(users=function))


async def test_without_a_seed_the_command_says_how_to_write_one(slices, tmp_path):
    with pytest.raises(CannotStart, match=r"no slice has a seed\.py"):
        await seeds.seed(tmp_path)


async def test_outside_of_development_it_is_refused(slices, monkeypatch, capsys, sql):
    monkeypatch.setenv("APP_ENV", "staging")
    monkeypatch.setenv("APP_JWT_SECRET", "8b1f0c67d2e94a35" * 2)
    with pytest.raises(SystemExit, match="this is for development, and APP_ENV is staging"):
        await seeds.seed(slices(users=people))
    assert await sql.fetchval("SELECT count(*) FROM users") == 0
