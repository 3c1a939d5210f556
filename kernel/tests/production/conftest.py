"""The service as production runs it: with OpenTelemetry on, and behind `--root-path /api`."""

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from starlette.types import ASGIApp, Receive, Scope, Send

from kernel.settings import Settings
from kernel.testing.suite import (  # noqa: F401  # fixtures, for these tests alone
    CreateApp,
    database,
    database_url,
    running_app,
    settings,
    sql_connection,
    template,
)
from kernel.testing.walking import Walk
from kernel.tests.app import WALK, create_walked_app
from kernel.tests.production.instruments import TracerProvider

PROVIDER = TracerProvider()


class Prefixed:
    """Gives requests the path that uvicorn makes of theirs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = f"{scope['root_path']}{scope['path']}"
        await self.app({**scope, "path": path}, receive, send)


def create_production_app(given: Settings) -> FastAPI:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_SERVICE_NAME", "production")
        app = create_walked_app(given)
    app.root_path = "/api"
    app.add_middleware(Prefixed)
    return app


@pytest.fixture(scope="session", autouse=True)
def _traced() -> None:
    trace.set_tracer_provider(PROVIDER)


def pytest_walk() -> Walk:
    return Walk(create_production_app, WALK.slices)


@pytest.fixture(scope="session")
def create_app() -> CreateApp:
    return create_production_app
