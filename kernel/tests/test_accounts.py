"""Test accounts have what a team's table of users asks for."""

import pytest


@pytest.fixture
def account_columns(account_columns):
    return account_columns | {"is_active": True, "full_name": lambda name: f"Dr. {name}"}


async def test_every_test_account_has_the_teams_columns(alice, sql):
    row = await sql.fetchrow("SELECT full_name, is_active FROM users")
    assert tuple(row) == ("Dr. Alice", True)


async def test_an_account_has_columns_of_its_own(sign_up, sql):
    caller = await sign_up("Carol", "admin", version=7, full_name="Caroline")
    assert caller.email == "carol@example.com"
    row = await sql.fetchrow("SELECT id, full_name, role, version FROM users")
    assert tuple(row) == (caller.user_id, "Caroline", "admin", 7)
