"""A worker of pgqueuer's with a task that does nothing; `install` makes its tables."""

import asyncio
import os
import sys

import asyncpg
from pgqueuer import AsyncpgDriver, Job, PgQueuer, Queries


async def main() -> None:
    driver = AsyncpgDriver(await asyncpg.connect(os.environ["DATABASE_URL"]))
    if sys.argv[1:] == ["install"]:
        await Queries(driver).install()
        return
    worker = PgQueuer(driver)
    worker.entrypoint("idle")(idle)
    await worker.run(batch_size=100)


async def idle(job: Job) -> None:
    """It costs nothing but itself."""


asyncio.run(main())
