"""The service as tests run it: with a slice of their own, so that they need none of the team's.

`kernel/tests/peelings` is a whole slice in the house's form. The project does not mount it and has
no migration for it; its table lies beside the migrated ones in the databases of tests.
"""

import shutil
from pathlib import Path
from typing import Any

import asyncpg
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

import service
from kernel.data.resources import resources_of
from kernel.data.schema import upgrade_schema
from kernel.settings import ROOT, Settings
from kernel.testing.operations import operations
from kernel.testing.walking import Walk
from kernel.tests.articles import router as articles
from kernel.tests.peelings import router as peelings

IMPORTED = "from features.peelings import router as peelings\n"
MOUNTED = "    app.include_router(peelings.router)\n"


def create_app(settings: Settings) -> FastAPI:
    """The service's app, with the tests' slice mounted behind its own."""
    app = service.create_app(settings)
    app.include_router(peelings.router)
    return app


def create_walked_app(settings: Settings) -> FastAPI:
    """The same, with a slice behind it that a foreign team could have written."""
    app = create_app(settings)
    app.include_router(articles.router)
    return app


OWN_TABLES = (
    "peelings",
    "peeled_articles",
    "peeled_sections",
    "peeled_tags",
    "peeled_countries",
    "peeled_article_tags",
)
"""The tables that no migration makes."""

WALK = Walk(create_walked_app, ("kernel.tests.peelings", "kernel.tests.articles"))
"""What walks walk over here: the operations of the tests' own slices, and of no other one."""


NAME = resources_of(WALK.app).slug
"""The service's name, as its connections and its tokens have it."""

PATHS = {each.name: each.path for each in operations(WALK.app)}
"""Where a team has mounted its operations, by their names."""


def account_body(**known: str) -> dict[str, Any]:
    """What makes an account: these fields, and whatever else a team's accounts need."""
    create = next(each for each in operations(WALK.app) if each.name == "create_user")
    body: dict[str, Any] = create.value(create.body or {})
    return body | known


async def migrate(url: str) -> None:
    """Make the service's tables, and those of the tests' slices."""
    await upgrade_schema(url)
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda *_, **__: asyncpg.connect(url)
    )
    ours = [SQLModel.metadata.tables[name] for name in OWN_TABLES]
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all, ours)
    await engine.dispose()


def mount(checkout: Path) -> None:
    """Mount the tests' slice in a copy of the service; its table is in the databases of tests."""
    shutil.copytree(ROOT / "kernel/tests/peelings", checkout / "features/peelings")
    contents = (checkout / "service.py").read_text()
    contents = contents.replace("\n\n\ndef ", f"\n{IMPORTED}\n\ndef ", 1)
    (checkout / "service.py").write_text(
        contents.replace("    return app\n", f"{MOUNTED}    return app\n")
    )
