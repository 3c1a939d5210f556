"""The service with tasks of which each leaves a row, for a drill to count."""

import asyncio
import os

from fastapi import FastAPI
from sqlalchemy import text

import service
from kernel.data.independent import open_session
from kernel.data.jobs import Job
from kernel.data.session import WriteSession
from kernel.http.application import app_on_demand
from kernel.http.dependencies import Reader, Session
from kernel.http.router import Router
from kernel.jobs.tasks import task
from kernel.settings import Settings

router = Router(prefix="/chores")
NOTE = text("INSERT INTO rung VALUES (:number, :job)")
BEGUN = text("INSERT INTO shared VALUES (:job, :process, clock_timestamp())")
ENDED = text("UPDATE shared SET ended = clock_timestamp() WHERE job = :job")


@task(timeout=1.0)
async def book(session: WriteSession, number: int) -> None:
    await session.fetch(text("INSERT INTO booked VALUES (:number)"), number=number)
    await asyncio.sleep(0.02)


@task(external=True, timeout=1.0)
async def ring(job: Job, number: int) -> None:
    """The table stands for another system: what is noted there is so for good."""
    async with open_session() as session:
        await session.fetch(NOTE, number=number, job=job.id)
    await asyncio.sleep(0.02)


@task(external=True, concurrency=2)
async def share(job: Job) -> None:
    """Leaves a row with the time during which it ran."""
    values = {"job": job.id, "process": os.getpid()}
    async with open_session() as session:
        await session.fetch(BEGUN, **values)
    await asyncio.sleep(0.05)
    async with open_session() as session:
        await session.fetch(ENDED, job=job.id)


@task(external=True, timeout=60.0)
async def wait(number: int) -> None:
    await asyncio.sleep(50)


@task
async def doze(session: WriteSession, number: int) -> None:
    await session.fetch(text("INSERT INTO booked VALUES (:number)"), number=number)
    await asyncio.sleep(25)


@task
async def idle(session: WriteSession) -> None:
    """A job that costs nothing but itself."""


@task(every="2s")
async def toll(session: WriteSession, job: Job) -> None:
    await session.fetch(text("INSERT INTO struck VALUES (:job)"), job=job.id)


@router.post("", status_code=204)
async def note(session: Session, jobs: int) -> None:
    """What an operation costs that writes a row, and enqueues so many jobs."""
    await session.fetch(text("INSERT INTO booked VALUES (:number)"), number=jobs)
    for _ in range(jobs):
        await session.enqueue(idle)


@router.get("")
async def booked(reader: Reader) -> int:
    return len(await reader.fetch(text("SELECT FROM booked LIMIT 10")))


def create_app(settings: Settings) -> FastAPI:
    app = service.create_app(settings)
    app.include_router(router)
    return app


__getattr__ = app_on_demand(create_app)
