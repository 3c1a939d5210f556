from sqlalchemy import bindparam, func, text, update
from sqlmodel import col, select

from features.jobs.models import JobFilter, JobPublic
from kernel import Conflict, Job, NotFound, Page, Pager, ReadPool, WriteSession

JOBS = select(Job)
BY_ID = select(Job).where(col(Job.id) == bindparam("id"))
RETRY = (
    update(Job)
    .where(col(Job.id) == bindparam("job_id"), col(Job.state).in_(("waiting", "failed")))
    .values(state="waiting", attempts=0, run_at=func.now())
    .returning(Job)
)
# The row of a tick is kept: without it, the next tick would count as the first, which is not run.
DISCARD = text("""
    WITH done AS (
        UPDATE jobs SET state = 'done', lease = NULL WHERE id = :id AND tick IS NOT NULL
        RETURNING id
    ), gone AS (DELETE FROM jobs WHERE id = :id AND tick IS NULL RETURNING id)
    SELECT id FROM done UNION ALL SELECT id FROM gone
""")


async def list_jobs(primary: ReadPool, pager: Pager, filters: JobFilter) -> Page[JobPublic]:
    jobs = filters.apply(JOBS)
    return await pager.fetch(primary, JobPublic, jobs, filters.order, **filters.values())


async def retry_job(session: WriteSession, job_id: int) -> JobPublic:
    job = await session.first(JobPublic, RETRY, job_id=job_id)
    if job is not None:
        return job
    if await session.first(JobPublic, BY_ID, id=job_id) is None:
        raise NotFound("job", job_id)
    raise Conflict("the job is running, or has succeeded")


async def discard_job(session: WriteSession, job_id: int) -> None:
    if not await session.fetch(DISCARD, id=job_id):
        raise NotFound("job", job_id)
