"""What the walks over many hostile requests share: a service with cheap password hashes.

A walk makes about a thousand sign-ins that fail: they are not throttled, and INFO is not logged.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from urllib.parse import quote_from_bytes

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI

from kernel.data.resources import resources_of
from kernel.identity.passwords import PasswordVault
from kernel.logs import configure_logging
from kernel.settings import Settings
from kernel.testing.callers import PASSWORD
from kernel.testing.requests import Request, describe
from kernel.testing.suite import CreateApp

CHANGES = {"sign_in_failures": 1_000_000, "log_level": "WARNING"}
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
AT_ONCE = 4  # requests


@pytest.fixture(scope="module")
async def password_hash() -> str:
    return CHEAP.hash(PASSWORD)


@pytest.fixture(scope="module")
async def running_app(settings: Settings, create_app: CreateApp) -> AsyncIterator[FastAPI]:
    """The service, with hashes that cost next to nothing: there are a thousand of them here."""
    app = create_app(settings.model_copy(update=CHANGES))
    async with app.router.lifespan_context(app):
        vault = resources_of(app).get(PasswordVault)
        vault._hasher, vault._dummy_hash = CHEAP, CHEAP.hash("nobody's")
        yield app
    configure_logging(settings.log_level)


async def all_of(requests: Iterable[Awaitable[httpx.Response]]) -> list[httpx.Response]:
    """Run the requests, a few at a time."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def run(request: Awaitable[httpx.Response]) -> httpx.Response:
        async with limit:
            return await request

    return list(await asyncio.gather(*[run(request) for request in requests]))


def mismatch(request: Request, answer: httpx.Response, expected: str, sent: object = "") -> str:
    """An assertion's message: the operation, its answer, what was sent, and what was expected."""
    cause = f" to {str(sent)[:100]!r}" if sent else ""
    return f"{request.operation.title} answered {describe(answer)}{cause}\nExpected: {expected}"


def quoted(text: str) -> str:
    return quote_from_bytes(text.encode(errors="surrogatepass"), safe="")
