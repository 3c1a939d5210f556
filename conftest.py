"""Fixtures of the service's tests: how an account signs in."""

import os
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from fastapi import FastAPI

from features.auth.handlers.access import TokenSigner
from kernel import resources_of
from kernel.settings import variable_prefixes

# Tests bring their own settings and database: the developer's environment is not read.
for variable in [name for name in os.environ if name.upper().startswith(variable_prefixes())]:
    del os.environ[variable]

pytest_plugins = ["kernel.testing"]
SIGN_IN = """
    INSERT INTO refresh_tokens (user_id, family, digest, expires_at)
    VALUES ($1, $2, gen_random_uuid()::text::bytea, now() + interval '1 day')
"""


@pytest.fixture
def sign_in(
    sql: "asyncpg.Connection[Any]",
) -> Callable[[FastAPI, int], Awaitable[dict[str, str]]]:
    """How an account signs in: the headers of its requests."""

    async def sign_in(app: FastAPI, user_id: int) -> dict[str, str]:
        family = uuid4()
        await sql.execute(SIGN_IN, user_id, family)
        token = resources_of(app).get(TokenSigner).issue(user_id, family)
        return {"Authorization": f"Bearer {token}"}

    return sign_in
