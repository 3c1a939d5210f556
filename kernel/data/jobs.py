"""The table of jobs, and its statements.

Times are the database's `now()`. Where a test may run ahead of it, the parameter `clock` comes
first: the later of the two counts.
"""

import re
from datetime import datetime
from typing import Any, ClassVar, Literal, Self
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index, Text, func, text
from sqlmodel import Field, SQLModel

from kernel.data.models import one_of

State = Literal["waiting", "running", "failed", "done"]
# An entry of the index has 2,704 bytes at most.
KEY_FORM = re.compile(r"[^\0\ud800-\udfff]{0,500}")
LIVE = text("state IN ('waiting', 'running')")


class JobFailed(RuntimeError):
    """A job has failed for good. Its message is stored: put no secret and no input in it."""

    @classmethod
    def of(cls, error: BaseException) -> Self | None:
        """The error, or one in a group of errors, that says that trying again is in vain."""
        if isinstance(error, BaseExceptionGroup):
            return next(filter(None, map(cls.of, error.exceptions)), None)
        return error if isinstance(error, cls) else None


class Job(SQLModel, table=True):
    """One call of a task; a task with a parameter of this type gets its own.

    `id` is the same in all attempts, and `attempts` counts this one; `request_id` is that of the
    request that enqueued it. `run_at` is when a waiting job is due, when a running job's lease
    ends, or when an ended job ended. A task that raises `Job.Failed("why")` is not tried again.
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
    arguments: str = Field(sa_type=Text)  # as it was dumped: jsonb would change the JSON
    key: str | None = Field(default=None, sa_type=Text)
    state: str = Field(
        default="waiting", sa_type=Text, sa_column_kwargs={"server_default": "waiting"}
    )
    run_at: datetime = Field(default=None, sa_column_kwargs={"server_default": func.now()})
    attempts: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    lease: UUID | None = None  # of the attempt that runs now
    tick: datetime | None = None  # of its schedule, if that enqueued it
    error: str | None = Field(default=None, sa_type=Text)  # the last attempt's
    request_id: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default=None, sa_column_kwargs={"server_default": func.now()})


def check_call(task: str, run_at: object, key: object) -> None:
    """Refuse what the table cannot hold.

    Raises:
        TypeError: `run_at` is no datetime with an offset from UTC, or `key` is no str.
        ValueError: `run_at` is out of range, or `key` is too long or not storable.
    """
    if run_at is not None:
        if not isinstance(run_at, datetime) or run_at.tzinfo is None:
            raise TypeError(f"{task}: run_at should be a datetime with an offset from UTC")
        if not 1970 <= run_at.year < 9000:
            raise ValueError(f"{task}: run_at should be between the years 1970 and 9000")
    if not isinstance(key, str | None):
        raise TypeError(f"{task}: key should be text")
    if key and not KEY_FORM.fullmatch(key):
        raise ValueError(f"{task}: key should be 500 characters at most, without NUL or surrogates")


# A run_at that has passed counts as now: a job neither overtakes others nor seems to be late.
ENQUEUE = """
    INSERT INTO jobs (task, arguments, key, run_at, request_id)
    VALUES ($1, $2, $3, greatest($4, now()), $5)
    ON CONFLICT (task, key) WHERE state IN ('waiting', 'running') {} RETURNING id
"""
KEEP = ENQUEUE.format("DO NOTHING")
# A worker that runs the job loses its lease, so a transactional task's work is rolled back.
REPLACE = ENQUEUE.format("""DO UPDATE SET arguments = excluded.arguments, run_at = excluded.run_at,
    request_id = excluded.request_id, state = 'waiting', attempts = 0, lease = NULL, error = NULL
""")
# Of each task the oldest due jobs, with those whose lease has ended. `take` shuffles the tasks, so
# that one with many jobs cannot starve the others. A lease begins when TAKE runs, and not at now(),
# the begin of the transaction, which may have waited for its turn.
TAKE = """
    WITH due AS MATERIALIZED (
        SELECT job.id, job.run_at, tasks.seconds
        FROM unnest($2::text[], $3::int[], $4::float[]) AS tasks (task, most, seconds)
        CROSS JOIN LATERAL (
            SELECT id, run_at FROM jobs
            WHERE jobs.task = tasks.task AND state IN ('waiting', 'running')
                AND run_at <= greatest($1::timestamptz, now())
            ORDER BY run_at, id
            LIMIT CASE WHEN tasks.most IS NULL THEN $5::int ELSE greatest(0, least($5,
                tasks.most - (SELECT count(*) FROM jobs AS other WHERE other.task = tasks.task
                    AND other.state = 'running' AND other.run_at > greatest($1, now())))) END
            FOR UPDATE SKIP LOCKED
        ) AS job LIMIT $5
    )
    UPDATE jobs SET state = 'running', lease = $6, attempts = attempts + 1,
        run_at = greatest($1, clock_timestamp()) + due.seconds * interval '1 second'
    FROM due WHERE jobs.id = due.id
    RETURNING jobs.*, greatest($1, now()) - greatest(due.run_at, created_at) AS waited
"""
# Workers that count a task's running jobs take turns: none sees what another has not committed.
TAKE_TURNS = "SELECT pg_advisory_xact_lock(5308117453)"
END = "DELETE FROM jobs WHERE id = $1 AND lease = $2 RETURNING id"
# The row of a tick stays for a while (see TICK), so that no process makes it again.
END_TICK = """
    UPDATE jobs SET state = 'done', lease = NULL, run_at = now() WHERE id = $1 AND lease = $2
    RETURNING id
"""
FAIL = """
    UPDATE jobs SET state = $3, lease = NULL, error = $6,
        run_at = greatest($4::timestamptz, now()) + $5::float * interval '1 second'
    WHERE id = $1 AND lease = $2 RETURNING id
"""
GIVE_BACK = """
    UPDATE jobs SET state = 'waiting', run_at = now(), lease = NULL, attempts = attempts - 1
    WHERE id = $1 AND lease = $2 RETURNING id
"""
# The first process to see that a tick is due inserts its job. An older tick that still waits is
# superseded. The very first tick of a task is recorded without a run: it may lie before the task.
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
    SELECT now() AS now, yes AS is_due, (SELECT latest.tick FROM made) AS last
    FROM is_due, latest
"""
COUNT = """
    SELECT task, count(*) FILTER (WHERE state = 'waiting') AS waiting,
        count(*) FILTER (WHERE state = 'failed') AS failed,
        extract(epoch FROM now() - min(run_at)
            FILTER (WHERE state IN ('waiting', 'running') AND run_at <= now()))::float AS oldest
    FROM jobs WHERE state <> 'done' GROUP BY task
"""
