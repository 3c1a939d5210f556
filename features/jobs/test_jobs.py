import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from features.jobs.__main__ import work
from kernel import Job, open_session

STUBBORN = """
import asyncio

async def suppress_cancellation():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def app(scope, receive, send):
    await receive()
    running = asyncio.create_task(suppress_cancellation())
    await asyncio.sleep(0)
    await send({"type": "lifespan.startup.complete"})
    print("up", flush=True)
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""


async def a_job(caller):
    async with open_session(caller.app) as session:
        job = Job(task="later.task", arguments="{}", state="failed")
        session.add(job)
        await session.flush()
        return job.id


RULES = {"list_jobs": "admin", "retry_job": "admin", "discard_job": "admin"}
COSTS = {"list_jobs": 2, "retry_job": 4, "discard_job": 4}
UNVERSIONED = {"versions": "a job has no version: its state says what may be done with it"}
SKIPS = {"retry_job": UNVERSIONED, "discard_job": UNVERSIONED}
KEYS = {"job_id": a_job}
JOB = "INSERT INTO jobs (task, arguments, state, attempts) VALUES ($1, '{}', $2, 3) RETURNING id"


@pytest.fixture
def job(sql):
    async def job(state="failed", task="later.task"):
        return await sql.fetchval(JOB, task, state)

    return job


async def test_jobs_are_for_admins(client, alice, job):
    for caller, status in ((client, 401), (alice, 403)):
        assert (await caller.get("/jobs")).status_code == status
        assert (await caller.post("/jobs/1/retry")).status_code == status
        assert (await caller.delete("/jobs/1")).status_code == status


async def test_a_list_is_filtered_by_state_and_task(admin, job):
    ids = [await job(*row) for row in (("failed", "a.b"), ("waiting", "a.b"), ("failed", "c.d"))]

    async def listed(**query):
        return [row["id"] for row in (await admin.get("/jobs", params=query)).json()["items"]]

    assert await listed() == ids[::-1]
    assert await listed(state="failed") == [ids[2], ids[0]]
    assert await listed(task="a.b", state="failed") == [ids[0]]


async def test_a_job_shows_no_arguments(admin, job):
    await job()
    (shown,) = (await admin.get("/jobs")).json()["items"]
    assert "arguments" not in shown


@pytest.mark.parametrize(
    ("state", "status"), [("failed", 200), ("waiting", 200), ("running", 409), ("done", 409)]
)
async def test_a_job_that_has_failed_or_waits_is_run_at_once(admin, job, state, status):
    answer = await admin.post(f"/jobs/{await job(state)}/retry")
    assert answer.status_code == status
    if status == 200:
        assert (answer.json()["state"], answer.json()["attempts"]) == ("waiting", 0)


async def test_a_job_whose_key_another_one_has_is_not_run_again(admin, job, sql):
    failed, _ = await job("failed"), await job("waiting")
    await sql.execute("UPDATE jobs SET key = 'k'")
    assert (await admin.post(f"/jobs/{failed}/retry")).status_code == 409
    assert await sql.fetchval("SELECT state FROM jobs WHERE id = $1", failed) == "failed"


async def test_a_discarded_job_is_gone(admin, job, sql):
    path = f"/jobs/{await job('running')}"
    assert [(await admin.delete(path)).status_code for _ in range(2)] == [204, 404]
    assert (await admin.post(f"{path}/retry")).status_code == 404


async def test_the_row_of_a_discarded_tick_stays(admin, job, sql):
    discarded = await job("waiting")
    await sql.execute("UPDATE jobs SET tick = now()")
    await admin.delete(f"/jobs/{discarded}")
    assert await sql.fetchval("SELECT state FROM jobs") == "done"


async def test_a_worker_whose_app_fails_before_it_has_started_ends():
    async def app(scope, receive, send):
        raise LookupError

    with pytest.raises(LookupError):
        async with asyncio.timeout(5):
            await work(app)


async def test_a_worker_ends_though_a_task_suppresses_its_cancellation(tmp_path):
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    command = [sys.executable, "-m", "features.jobs", "work", "--app", "stubborn:app"]
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    worker = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    try:
        assert await asyncio.wait_for(worker.stdout.readline(), 20) == b"up\n"
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), 10) == 0
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
