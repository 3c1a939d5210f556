"""What the tests of this service are run with."""

import os
from collections.abc import Callable

import pytest
from fastapi import FastAPI

from features.auth.handlers.access import TokenSigner
from kernel import resources_of
from kernel.settings import variable_prefixes

# Tests bring their own settings and database; none of the developer's may reach them.
for variable in [name for name in os.environ if name.upper().startswith(variable_prefixes())]:
    del os.environ[variable]

pytest_plugins = ["kernel.testing"]


@pytest.fixture
def sign_in() -> Callable[[FastAPI, int], dict[str, str]]:
    """How an account signs in: the headers of its requests."""

    def sign_in(app: FastAPI, user_id: int) -> dict[str, str]:
        token = resources_of(app).get(TokenSigner).issue(user_id)
        return {"Authorization": f"Bearer {token}"}

    return sign_in
