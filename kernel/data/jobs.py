"""The table of jobs, and what is done with it.

Clocks are the database's; a test's may be ahead of it, and is the first parameter where it counts.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index, Text, func, text
from sqlmodel import Field, SQLModel

from kernel.data.models import one_of

State = Literal["waiting", "running", "failed", "done"]
LIVE = text("state IN ('waiting', 'running')")


class JobFailed(RuntimeError):
    """A job has failed for good; the message must not have values in it, for it is kept."""


class Job(SQLModel, table=True):
    """One call of a task, which gets it as a parameter of this type.

    `id` is the same in all attempts, of which this is the `attempts`-th; `request_id` is that of
    the request that has enqueued it. `run_at` is when it is due; while it runs, when others may
    take it for lost; after its end, when that was. A task that raises `Job.Failed("why")` is not
    tried again.
    """

    Failed: ClassVar[type[JobFailed]] = JobFailed

    __tablename__ = "jobs"
    __table_args__: ClassVar[Any] = (
        one_of("state", State),
        Index("ix_jobs_due", "task", "run_at", "id", postgresql_where=LIVE),
        Index("ix_jobs_running", "task", postgresql_where=text("state = 'running'")),
        Index("ix_jobs_state", "state", "id"),
        Index("ix_jobs_task", "task", "id"),
        Index("ix_jobs_task_key", "task", "key", unique=True, postgresql_where=LIVE),
        Index("ix_jobs_task_tick", "task", "tick", unique=True),
    )

    id: int = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    task: str = Field(sa_type=Text)
    arguments: str = Field(sa_type=Text)  # JSON as it was made, which jsonb would change
    key: str | None = Field(default=None, sa_type=Text)
    state: str = Field(
        default="waiting", sa_type=Text, sa_column_kwargs={"server_default": "waiting"}
    )
    run_at: datetime = Field(default=None, sa_column_kwargs={"server_default": func.now()})
    attempts: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    lease: UUID | None = None  # of whoever runs it, in one attempt
    tick: datetime | None = None  # of the schedule that it is due by
    error: str | None = Field(default=None, sa_type=Text)  # the last attempt's
    request_id: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default=None, sa_column_kwargs={"server_default": func.now()})


ENQUEUE = """
    INSERT INTO jobs (task, arguments, key, run_at, request_id)
    VALUES ($1, $2, $3, coalesce($4, now()), $5)
    ON CONFLICT (task, key) WHERE state IN ('waiting', 'running') {} RETURNING id
"""
KEEP = ENQUEUE.format("DO NOTHING")
# Who runs it has lost it with its lease: a transactional task's work is undone.
REPLACE = ENQUEUE.format("""DO UPDATE SET arguments = excluded.arguments, run_at = excluded.run_at,
    request_id = excluded.request_id, state = 'waiting', attempts = 0, lease = NULL, error = NULL
""")
# For each task its oldest jobs, also those of workers that are gone. A task that has many cannot
# keep the others waiting: they are asked in another order each time.
TAKE = """
    WITH due AS MATERIALIZED (
        SELECT job.id, job.run_at, known.seconds
        FROM unnest($2::text[], $3::int[], $4::float[]) AS known (task, most, seconds)
        CROSS JOIN LATERAL (
            SELECT id, run_at FROM jobs
            WHERE jobs.task = known.task AND state IN ('waiting', 'running')
                AND run_at <= greatest($1::timestamptz, now())
            ORDER BY run_at, id
            LIMIT CASE WHEN known.most IS NULL THEN $5::int ELSE greatest(0, least($5,
                known.most - (SELECT count(*) FROM jobs AS other WHERE other.task = known.task
                    AND other.state = 'running' AND other.run_at > greatest($1, now())))) END
            FOR UPDATE SKIP LOCKED
        ) AS job LIMIT $5
    )
    UPDATE jobs SET state = 'running', lease = $6, attempts = attempts + 1,
        run_at = greatest($1, now()) + due.seconds * interval '1 second'
    FROM due WHERE jobs.id = due.id
    RETURNING jobs.*, greatest($1, now()) - due.run_at AS waited
"""
# Of two workers that count what runs of a task, each would see what the other has not yet taken.
TAKE_TURNS = "SELECT pg_advisory_xact_lock(5308117453)"
END = "DELETE FROM jobs WHERE id = $1 AND lease = $2 RETURNING id"
# The row of a tick stays for a while, so that nobody makes it again.
END_TICK = """
    UPDATE jobs SET state = 'done', lease = NULL, run_at = now() WHERE id = $1 AND lease = $2
    RETURNING id
"""
FAIL = """
    UPDATE jobs SET state = $3, lease = NULL, error = $6,
        run_at = greatest($4::timestamptz, now()) + $5::float * interval '1 second'
    WHERE id = $1 AND lease = $2
"""
GIVE_BACK = """
    UPDATE jobs SET state = 'waiting', run_at = now(), lease = NULL, attempts = attempts - 1
    WHERE id = $1 AND lease = $2
"""
# A tick is made when the database's clock has come to it, by whoever comes first. One that has not
# run by then is over, and the first one that a task ever has is not run: its time has passed.
TICK = """
    WITH latest AS (SELECT max(tick) AS tick FROM jobs WHERE task = $2),
    is_due AS (SELECT $3::timestamptz <= greatest($1::timestamptz, now()) AS yes),
    superseded AS (
        UPDATE jobs SET state = CASE attempts WHEN 0 THEN 'done' ELSE 'failed' END, run_at = now()
        WHERE task = $2 AND tick < $3 AND state = 'waiting' AND (SELECT yes FROM is_due)
    ),
    forgotten AS (
        DELETE FROM jobs WHERE task = $2 AND tick < $3 AND (SELECT yes FROM is_due)
            AND (state = 'done' AND run_at < now() - interval '1 hour'
                OR state = 'failed' AND run_at < now() - interval '30 days')
    ),
    made AS (
        INSERT INTO jobs (task, tick, arguments, state)
        SELECT $2, $3, '{}', CASE WHEN latest.tick IS NULL THEN 'done' ELSE 'waiting' END
        FROM latest, is_due WHERE yes AND (latest.tick IS NULL OR latest.tick < $3)
        ON CONFLICT (task, tick) DO NOTHING
        RETURNING id
    )
    SELECT yes AS is_due, EXISTS (SELECT FROM made) AS is_made, latest.tick AS before
    FROM is_due, latest
"""
COUNT = """
    SELECT task, count(*) FILTER (WHERE state = 'waiting') AS waiting,
        count(*) FILTER (WHERE state = 'failed') AS failed,
        extract(epoch FROM now() - min(run_at)
            FILTER (WHERE state IN ('waiting', 'running') AND run_at <= now()))::float AS oldest
    FROM jobs WHERE state <> 'done' GROUP BY task
"""
