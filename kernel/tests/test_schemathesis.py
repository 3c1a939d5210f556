"""Requests that schemathesis makes up from the OpenAPI document, against a service that runs.

This module is also what runs them, in a process of its own: `python -m tests.test_schemathesis`
is schemathesis' command line, taught what no schema can say.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import date, time
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from anyio import to_thread

from features.auth.handlers.access import TokenSigner
from kernel.settings import ROOT, Settings
from kernel.testing.callers import PASSWORD
from kernel.testing.operations import operations
from kernel.testing.sampler import Sampler
from kernel.testing.schemas import dig
from kernel.tests.app import NAME, create_app
from kernel.tests.processes import checkout_in, serve

pytestmark = pytest.mark.slow(seconds=60)

SECRET = "test" * 8
ROWS = "ROWS_TO_REFER_TO"
EXAMPLES = 70  # for an operation in a phase, at most
FEWEST = 2000
# The account of the run, which the run must not lock out: what would is a conflict. Its id is one
# that nobody makes up, and so are those of the rows that requests refer to.
TESTER = 10**17 + 4321
EMAIL = "tester@example.com"
ACCOUNT = """
    INSERT INTO users (id, email, full_name, password_hash, role) OVERRIDING SYSTEM VALUE
    VALUES ($1, $2, 'Tester', $3, 'admin')
"""
TOKENS = """
    INSERT INTO refresh_tokens (user_id, family, digest, expires_at)
    SELECT $1, gen_random_uuid(), sha256(('refresh ' || n)::bytea), now() + interval '1 day'
    FROM generate_series(1, 1000) n
"""
OWN_SIGN_IN = """
    INSERT INTO refresh_tokens (id, user_id, family, digest, expires_at) OVERRIDING SYSTEM VALUE
    VALUES ($1, $1, $2, '', now() + interval '1 day')
"""
GUARD = f"""
    CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'this row stays' USING ERRCODE = '23503'; END $$;
    CREATE TRIGGER keep_it_in BEFORE UPDATE ON users FOR EACH ROW
        WHEN (OLD.id = {TESTER} AND (NEW.role <> 'admin' OR NOT NEW.is_active))
        EXECUTE FUNCTION keep();
"""
KEEP = f"""
    CREATE TRIGGER keep_it BEFORE DELETE ON %s
        FOR EACH ROW WHEN (OLD.id >= {TESTER}) EXECUTE FUNCTION keep();
"""
# Not those of jobs, which the service makes by itself.
COUNT_FROM = """
    SELECT setval(format('%I', sequencename)::regclass, $1, false) FROM pg_sequences
    WHERE schemaname = 'public' AND sequencename <> 'jobs_id_seq'
"""
# What takes a token that was sent by mail, or a job that has failed.
OF_MORE_THAN_REQUESTS = {
    "POST /invitations/acceptance",
    "POST /jobs/{job_id}/retry",
    "POST /password-resets/completion",
}
APP = create_app(Settings(_env_file=None))
OPERATIONS = list(operations(APP))
SIGN_IN = UUID(int=4321)
TOKEN = TokenSigner(NAME, [SECRET], lifetime=3600).issue(TESTER, SIGN_IN)
_tokens = count(1)
_rows = json.loads(os.environ.get(ROWS, "{}"))


@pytest.fixture
async def target(tmp_path, database, password_hash):
    """A service on a fresh database with one account, which signs in as often as it likes."""
    with checkout_in(tmp_path / "checkout") as checkout:
        async with database() as url:
            sql = await asyncpg.connect(url)
            await sql.execute(ACCOUNT, TESTER, EMAIL, password_hash)
            await sql.execute(OWN_SIGN_IN, TESTER, SIGN_IN)
            await sql.execute(GUARD)
            options = {"jwt_secret": SECRET, "signup_open": False, "sign_in_failures": 1_000_000}
            async with serve(checkout, database_url=url, log_level="WARNING", **options) as service:
                service.client.headers["Authorization"] = f"Bearer {TOKEN}"
                rows = await rows_to_refer_to(service, sql)
                await sql.execute(TOKENS, TESTER)  # counted on, or the next ones would be twins
                yield service, rows
            await sql.close()


async def rows_to_refer_to(service, sql):
    """Rows for the bodies that refer to some: by operation, the fields and their ids."""
    caller = service.client
    caller.user_id, caller.email = TESTER, EMAIL
    sampler = Sampler(APP, caller)
    await sql.fetch(COUNT_FROM, TESTER + 1)
    bodies = {each: await sampler.body(each) for each in OPERATIONS if each.references}
    await sql.fetch(COUNT_FROM, 1)
    for table in {"users", "refresh_tokens"}.union(*(each.references.values() for each in bodies)):
        await sql.execute(KEEP % table)
    return {
        str(operation): {field.name: dig(body, field.path) for field in operation.references}
        for operation, body in bodies.items()
    }


async def test_no_request_that_is_made_up_from_the_document_breaks_its_word(target, tmp_path):
    service, rows = target
    run = await to_thread.run_sync(schemathesis, service.port, rows, tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    ran = {name for name, phase in report["phases"].items() if phase["status"] == "success"}
    assert ran == {"coverage", "examples", "fuzzing", "stateful"}
    assert report["complete"]
    assert report["test_cases"]["generated"] >= FEWEST
    # None of it in vain: every operation has also done what it is for.
    statuses = answers(tmp_path / "report.ndjson")
    names = {*map(str, OPERATIONS)} - OF_MORE_THAN_REQUESTS
    assert {name: statuses[name] for name in names if not succeeded(statuses[name])} == {}
    assert sum(map(succeeded, statuses.values())) >= FEWEST / 4


def schemathesis(
    port: int, rows: dict[str, Any], folder: Path
) -> "subprocess.CompletedProcess[str]":
    """Run all checks in all phases."""
    command = [sys.executable, "-m", __name__, "run", f"http://127.0.0.1:{port}/openapi.json"]
    options = {
        "header": f"Authorization: Bearer {TOKEN}",
        "checks": "all",
        "seed": 1,
        "max-examples": EXAMPLES,
        "generation-allow-x00": True,
        # The token is in every request; the check `ignored_auth` takes it away by itself.
        "generation-with-security-parameters": False,
        "generation-database": "none",
        "report": "json,ndjson",
        "report-json-path": folder / "report.json",
        "report-ndjson-path": folder / "report.ndjson",
    }
    return subprocess.run(
        [*command, "--no-color", "--continue-on-failure"]
        + [f"--{name}={value}" for name, value in options.items()],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), ROWS: json.dumps(rows)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def answers(events: Path) -> dict[str, Counter[int]]:
    """How often each operation gave each status."""
    found: dict[str, Counter[int]] = {}
    for line in events.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for number, exchange in recorder.get("interactions", {}).items():
            case = recorder["cases"][number]["value"]
            operation = found.setdefault(f"{case['method']} {case['path']}", Counter())
            operation[(exchange["response"] or {}).get("status_code", 0)] += 1
    return found


def succeeded(statuses: Counter[int]) -> int:
    return sum(number for status, number in statuses.items() if 200 <= status < 300)


def say_what_no_schema_can(_context: Any, case: Any, _options: Any) -> None:
    """Make a request that follows the document one that the service can do.

    What was meant to break the document stays as it is.
    """
    parts = case.meta.components.values() if case.meta else []
    if any(part.mode.is_negative for part in parts):
        return
    body = case.body if isinstance(case.body, dict) else {}
    true = [
        (case.query, {"cursor": None}),  # only the service can give one
        (case.headers, {"Idempotency-Key": uuid4().hex}),  # good for one request
        (case.headers, {"If-Match": "*"}),
        (body, {"expires_at": "2100-01-02T03:04:05Z"}),  # in the future
        (body, {"username": EMAIL}),
        (body, {"password": PASSWORD} if "username" in body else {}),
        # There are only so many, each good for one request, too.
        (body, {"refresh_token": f"refresh {next(_tokens)}"} if "refresh_token" in body else {}),
        # How much an object may hold, and what its texts may not, is in no schema either.
        (body, {name: {"a": 1} for name, value in body.items() if isinstance(value, dict)}),
        (body, _rows.get(f"{case.method} {case.path}", {})),
    ]
    for place, values in true:
        for name, value in values.items():
            if name in (place or {}):
                place[name] = value
                if value is None:
                    del place[name]


def is_sendable(_context: Any, case: Any) -> bool:
    """Whether what is wrong about the case arrives: in a multipart body, all is text or a file."""
    if case.media_type != "multipart/form-data" or not isinstance(case.body, dict):
        return True
    return all(isinstance(value, str | bytes) for value in case.body.values())


if __name__ == "__main__":
    from hypothesis import strategies
    from schemathesis import hook, openapi
    from schemathesis.cli import schemathesis as command_line

    # Nobody has an address under `.test` (RFC 6761).
    hosts = strategies.sampled_from(["example.com", "example.org", "mail.example.net"])
    openapi.format("email", strategies.emails(domains=hosts))
    # A schema has no bounds for time.
    days = strategies.dates(date(1970, 1, 1), date(8999, 12, 31)).map(date.isoformat)
    times = strategies.times().map(time.isoformat)
    openapi.format("date", days)
    openapi.format("date-time", strategies.builds("{}T{}Z".format, days, times))
    hook("filter_case")(is_sendable)
    hook("before_call")(say_what_no_schema_can)
    command_line()
