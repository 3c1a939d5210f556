"""The service as tests run it: with a slice of their own, so that they need none of the team's.

`kernel/tests/peelings` is a whole slice in the house's form. The project does not mount it and has
no migration for it; its table lies beside the migrated ones in the databases of tests.
"""

import shutil
from pathlib import Path

import asyncpg
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

import service
from kernel.settings import ROOT, Settings
from kernel.tests.peelings import router as peelings
from kernel.tests.peelings.models import Peeling

IMPORTED = "from features.peelings import router as peelings\n"
MOUNTED = "    app.include_router(peelings.router)\n"


def create_app(settings: Settings) -> FastAPI:
    """The service's app, with the tests' slice mounted behind its own."""
    app = service.create_app(settings)
    app.include_router(peelings.router)
    return app


async def create_table(url: str) -> None:
    """Make the table of the tests' slice, in a migrated database."""
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda *_, **__: asyncpg.connect(url)
    )
    async with engine.begin() as connection:
        tables = [SQLModel.metadata.tables[Peeling.__tablename__]]
        await connection.run_sync(SQLModel.metadata.create_all, tables)
    await engine.dispose()


def mount(checkout: Path) -> None:
    """Mount the tests' slice in a copy of the service; its table is in the databases of tests."""
    shutil.copytree(ROOT / "kernel/tests/peelings", checkout / "features/peelings")
    contents = (checkout / "service.py").read_text()
    contents = contents.replace("\n\n\ndef ", f"\n{IMPORTED}\n\ndef ", 1)
    (checkout / "service.py").write_text(
        contents.replace("    return app\n", f"{MOUNTED}    return app\n")
    )
