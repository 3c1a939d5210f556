"""What waits to be done after a commit, what runs, and what has failed."""

from typing import Annotated

from fastapi import Query

from features.jobs import handlers
from features.jobs.models import JobFilter, JobPublic
from kernel import Admin, Id, Page, Paging, Router, Service, Session

router = Router(prefix="/jobs", tags=["jobs"])


@router.get("")
async def list_jobs(
    _: Admin, service: Service, paging: Paging, filters: Annotated[JobFilter, Query()]
) -> Page[JobPublic]:
    """Jobs, page by page. Those that have ended well are gone, but for the latest of a schedule."""
    return await handlers.list_jobs(service.primary, paging, filters)


@router.post("/{job_id}/retry")
async def retry_job(job_id: Id, _: Admin, session: Session) -> JobPublic:
    """Run a job now that has failed, or waits; its attempts begin anew."""
    return await handlers.retry_job(session, job_id)


@router.delete("/{job_id}", status_code=204)
async def discard_job(job_id: Id, _: Admin, session: Session) -> None:
    """Discard a job. What one that runs has done in the database is undone."""
    await handlers.discard_job(session, job_id)
