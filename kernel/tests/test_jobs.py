"""Work after the commit."""

from datetime import UTC, datetime

import pytest

from kernel import Job, Resources, WriteSession, open_session, resources_of, task

done: list[object] = []


@task
async def sweep_floor(session: WriteSession, room: str, times: int = 1) -> None:
    done.append((room, times))


@task(external=True)
async def call_plumber(job: Job, resources: Resources, at: datetime) -> None:
    done.append((job.id, resources.name, at))


@pytest.fixture(autouse=True)
def nothing_done():
    done.clear()


async def test_a_job_runs_after_the_commit(app, sql, jobs):
    async with open_session(app) as session:
        at = datetime.now(UTC)
        await session.enqueue(sweep_floor, room="hall")
        job_id = await session.enqueue(call_plumber, at=at)
        assert await jobs.drain() == []
    assert await jobs.drain() == ["kernel.sweep_floor", "kernel.call_plumber"]
    assert done == [("hall", 1), (job_id, resources_of(app).name, at)]
    assert await sql.fetchval("SELECT count(*) FROM jobs") == 0
