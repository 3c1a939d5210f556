"""Accounts and sign-ins of the version before go on, and what it had ended stays ended."""

import hashlib
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import asyncpg
import httpx
import pytest
from alembic import command
from alembic.util import CommandError
from argon2 import PasswordHasher

import service
from kernel.settings import Settings
from kernel.testing.callers import PASSWORD
from kernel.testing.history import empty_database, migrate
from kernel.tests.app import PATHS

BEFORE = "20261126T033300_v5ct"
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
ACCOUNT = """
    INSERT INTO users (email, full_name, password_hash, password_changed_at)
    VALUES ($1, 'Ada', $2, now() - $3::interval) RETURNING id
"""
TOKEN = """
    INSERT INTO refresh_tokens (user_id, family, digest, created_at, spent_at, expires_at)
    VALUES ($1, $2, $3, now() - $4::interval, CASE WHEN $5 THEN now() END, now() + interval '1 day')
"""
# What made a token good there.
IS_GOOD_BEFORE = """
    SELECT count(*) FROM refresh_tokens JOIN users ON users.id = user_id
    WHERE digest = $1 AND spent_at IS NULL AND expires_at > now() AND is_active
      AND password_changed_at <= refresh_tokens.created_at
"""
EMAILS = "SELECT email FROM users ORDER BY id"


@pytest.fixture
async def url(postgres, worker_id):
    """A database of the version before."""
    async with empty_database(postgres, worker_id) as url:
        await migrate(command.upgrade, url, BEFORE)
        yield url


@pytest.fixture
async def sql(url):
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


def digest(token):
    return hashlib.sha256(token.encode()).digest()


async def add_account(sql, email="ada@example.com", hours=0):
    """One whose password was changed so long ago."""
    return await sql.fetchval(ACCOUNT, email, HASH, timedelta(hours=hours))


async def add_token(sql, user_id, token, hours=0, family=None, is_spent=False):
    values = (family or uuid4(), digest(token), timedelta(hours=hours), is_spent)
    await sql.execute(TOKEN, user_id, *values)


@asynccontextmanager
async def serve(url):
    await migrate(command.upgrade, url, "head")
    app = service.create_app(Settings(_env_file=None, database_url=url, jwt_secret="test" * 8))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def refresh(client, token):
    return await client.post(PATHS["refresh_token"], json={"refresh_token": token})


async def status_of_me(client, tokens):
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    return (await client.get("/users/me", headers=bearer)).status_code


async def test_sign_ins_go_on_and_those_that_a_new_password_had_ended_do_not(url, sql):
    ada, bob = await add_account(sql, hours=2), await add_account(sql, "bob@example.com", 9)
    family = uuid4()
    await add_token(sql, ada, "of the thief", hours=3)
    await add_token(sql, ada, "spent", hours=1, family=family, is_spent=True)
    await add_token(sql, ada, "of Ada", hours=1, family=family)
    await add_token(sql, bob, "of Bob", hours=8)
    async with serve(url) as client:
        assert (await refresh(client, "of the thief")).status_code == 401
        for token in ("of Ada", "of Bob"):
            tokens = (await refresh(client, token)).json()
            assert await status_of_me(client, tokens) == 200
            assert (await refresh(client, tokens["refresh_token"])).status_code == 200
        assert (await refresh(client, "spent")).status_code == 401  # and Ada's ends
        form = {"username": "ada@example.com", "password": PASSWORD}
        assert (await client.post(PATHS["create_token"], data=form)).status_code == 200


async def test_the_way_back_keeps_the_sign_ins(url, sql):
    await add_token(sql, await add_account(sql, hours=2), "of Ada", hours=1)
    async with serve(url) as client:
        token = (await refresh(client, "of Ada")).json()["refresh_token"]
    await migrate(command.downgrade, url, BEFORE)
    assert await sql.fetchval(IS_GOOD_BEFORE, digest(token)) == 1
    async with serve(url) as client:
        tokens = (await refresh(client, token)).json()
        assert await status_of_me(client, tokens) == 200


async def test_an_address_of_another_form_gets_the_one_that_signs_in(url, sql):
    forms = {
        "jose\u0301@example.com": "jos\u00e9@example.com",
        "carol@xn--bcher-kva.example": "carol@b\u00fccher.example",
        " ada@example.com ": "ada@example.com",
        "ren\u00e9@example.com": "ren\u00e9@example.com",
        "no address \u00fc": "no address \u00fc",
    }
    for stored in forms:
        await add_account(sql, stored)
    await migrate(command.upgrade, url, "head")
    assert [email for (email,) in await sql.fetch(EMAILS)] == [*forms.values()]


async def test_two_accounts_with_one_address_are_told_and_nothing_is_changed(url, sql):
    stored = ["jose\u0301@example.com", "jos\u00e9@example.com", "rene\u0301@example.com"]
    for email in stored:
        await add_account(sql, email)
    with pytest.raises(CommandError, match="the users 2 and 1 have one e-mail address in two"):
        await migrate(command.upgrade, url, "head")
    assert [email for (email,) in await sql.fetch(EMAILS)] == stored
    await sql.execute("DELETE FROM users WHERE id = 1")
    await migrate(command.upgrade, url, "head")
    assert await sql.fetchval("SELECT email FROM users WHERE id = 3") == "ren\u00e9@example.com"
