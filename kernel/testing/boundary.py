"""The walk over what every write has, whatever it does.

A success means that COMMIT succeeded, a repeated Idempotency-Key is replayed, and a dry run changes
nothing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from kernel.testing.asking import mismatch
from kernel.testing.failures import is_problem
from kernel.testing.fixtures import Connection, SignUp
from kernel.testing.instruments import TABLES, Rows
from kernel.testing.operations import Operation
from kernel.testing.requests import Request
from kernel.testing.sampler import Sampler
from kernel.testing.walking import every

REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'refused at COMMIT' USING ERRCODE = '23503'; END $$
"""
COUNT_KEYS = "SELECT count(*) FROM idempotency_keys"
# None of them is 1 to 255 visible characters, bare or quoted.
INVALID_KEYS = [
    "",
    " ",
    '""',
    '"',
    "x" * 256,
    f'"{"x" * 256}"',
    "a b",
    "\u00fc",
    "a\x7f",
    '"a"b"',
    '"a',
]
UNKNOWN = {"unknown": "x"}


def is_write(operation: Operation) -> bool:
    return operation.is_write


def takes_key(operation: Operation) -> bool:
    return operation.takes_key


def takes_no_key(operation: Operation) -> bool:
    return operation.is_write and not operation.takes_key


def can_be_rehearsed(operation: Operation) -> bool:
    return operation.is_write and not operation.answers_with_a_secret


def answers_with_a_secret(operation: Operation) -> bool:
    return operation.answers_with_a_secret


def can_be_wrong(operation: Operation) -> bool:
    return operation.takes_key and bool(operation.body or operation.parameters("path"))


@pytest.fixture
async def refuse_at_commit(
    sql: "Connection[Any]", tables_aside: set[str]
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Make every change of any row fail, but only at COMMIT, by a deferred constraint trigger."""
    tables = [name for (name,) in await sql.fetch(TABLES) if name not in tables_aside]

    async def refuse() -> None:
        await sql.execute(REFUSE)
        for table in tables:
            await sql.execute(
                f'CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE OR DELETE ON "{table}"'
                " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
            )

    yield refuse
    await sql.execute("DROP FUNCTION IF EXISTS refuse() CASCADE")


async def writes_rows(sampler: Sampler, rows: Rows, operation: Operation) -> bool:
    """Whether a valid request changes any row, unlike one that only computes."""
    request = await sampler.prepare(operation)
    before = await rows()
    await sampler.send(request)
    return await rows() != before


@every(is_write)
async def test_a_valid_request_succeeds(sampler: Sampler, operation: Operation) -> None:
    await sampler.succeed(operation)


@every(is_write)
async def test_a_refusal_at_commit_is_no_success(
    sampler: Sampler,
    rows: Rows,
    refuse_at_commit: Callable[[], Awaitable[None]],
    operation: Operation,
) -> None:
    is_refused = await writes_rows(sampler, rows, operation)
    request = await sampler.prepare(operation)
    await refuse_at_commit()
    before = await rows()
    answer = await sampler.send(request)
    assert await rows() == before, mismatch(request, answer, "no change after a refused COMMIT")
    expected = "409, since COMMIT was refused" if is_refused else "success, since it writes nothing"
    is_right = answer.status_code == 409 if is_refused else answer.is_success
    assert is_right, mismatch(request, answer, expected)


@every(takes_key)
async def test_a_repeated_key_is_answered_again_byte_for_byte_and_done_once(
    sampler: Sampler, rows: Rows, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    first = await sampler.send(request, Idempotency_Key="a-key")
    after = await rows()
    again = await sampler.send(request, Idempotency_Key='"a-key"')
    assert first.is_success, mismatch(request, first, "success with a key")
    assert "idempotent-replayed" not in first.headers, operation.title
    assert await rows() == after, mismatch(request, again, "no second change with the same key")
    if operation.answers_with_a_secret:
        assert again.status_code == 409, mismatch(request, again, "409: a secret is not kept")
    else:
        assert again.headers.get("idempotent-replayed") == "true", mismatch(
            request, again, "a replay"
        )
        per_response = {"x-request-id", "server-timing", "idempotent-replayed"}
        is_same = (again.status_code, again.content) == (first.status_code, first.content)
        is_same &= without(again, per_response) == without(first, per_response)
        assert is_same, mismatch(request, again, f"the same as before: {first.status_code}")


def without(answer: httpx.Response, names: set[str]) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in names}


@every(takes_key)
async def test_a_key_belongs_to_its_caller_method_path_and_body(
    sampler: Sampler, sign_up: SignUp, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    first = await sampler.send(request, Idempotency_Key="a-key")
    assert first.is_success, mismatch(request, first, "success with a key")
    others = [replace(request, params={**request.params, "x": "1"})]
    if request.body:
        empty = [None] if isinstance(request.body, list) else dict.fromkeys(request.body)
        others.append(request.with_body(empty))
    for other in others:
        answer = await sampler.send(other, Idempotency_Key="a-key")
        expected = "422: the key has been used for another request"
        assert answer.status_code == 422, mismatch(request, answer, expected)
        if is_problem(answer):
            problem = answer.json()
            names_header = "Idempotency-Key" in problem["message"] and "errors" not in problem
            assert names_header, mismatch(request, answer, expected)
    another = await sampler.as_another(sign_up)
    theirs = await another.send(await another.prepare(operation), Idempotency_Key="a-key")
    is_theirs = "idempotent-replayed" not in theirs.headers
    assert is_theirs, mismatch(request, theirs, "no replay of somebody else's answer")


@every(takes_no_key)
async def test_a_key_without_a_caller_is_not_looked_at(
    sampler: Sampler, sql: "Connection[Any]", operation: Operation
) -> None:
    for key in ("a-key", "a-key", "not one key"):
        answer = await sampler.send(await sampler.prepare(operation), Idempotency_Key=key)
        assert answer.is_success, f"{operation.title} gave {answer.status_code} for a key"
        assert "idempotent-replayed" not in answer.headers, operation.title
    assert await sql.fetchval(COUNT_KEYS) == 0, f"{operation.title} has kept a key without a caller"


@every(can_be_wrong)
async def test_a_failure_is_not_kept(
    sampler: Sampler, sql: "Connection[Any]", operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    failing = request.with_body(UNKNOWN) if operation.body else with_unknown_key(request)
    failure = await sampler.send(failing, Idempotency_Key="a-key")
    is_failure = failure.status_code in ((422,) if operation.body else (404, 422))
    assert is_failure, mismatch(request, failure, "422 for an unknown field or a key that is none")
    assert await sql.fetchval(COUNT_KEYS) == 0, f"{operation.title} has kept a failure for its key"
    answer = await sampler.send(request, Idempotency_Key="a-key")
    assert answer.is_success, mismatch(request, answer, "success, with the key of a failure")


def with_unknown_key(request: Request) -> Request:
    """The request with a last key in its path that no row has."""
    last = list(request.operation.parameters("path"))[-1]
    return replace(request, path=request.with_key(last, "0x").partition("?")[0])


@every(takes_key)
async def test_a_key_that_is_not_visible_characters_is_refused(
    sampler: Sampler, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    arguments = request.arguments()
    for key in INVALID_KEYS:
        headers = [*arguments["headers"].items(), (b"Idempotency-Key", key.encode("latin-1"))]
        sent = arguments | {"headers": [(as_bytes(n), as_bytes(value)) for n, value in headers]}
        answer = await sampler.caller.request(operation.method, request.url, **sent)
        is_refused = answer.status_code == 400
        assert is_refused, mismatch(request, answer, "400", f"Idempotency-Key: {key}")


def as_bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


@every(can_be_rehearsed)
async def test_a_dry_run_answers_as_if_and_changes_nothing(
    sampler: Sampler, rows: Rows, sql: "Connection[Any]", operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    before = await rows()
    rehearsal = await sampler.send(
        request, Prefer="return=minimal, TX=rollback", Idempotency_Key="a-key"
    )
    assert rehearsal.is_success, mismatch(request, rehearsal, "success of a dry run")
    applied = rehearsal.headers.get("preference-applied")
    assert applied == "tx=rollback", mismatch(request, rehearsal, "Preference-Applied: tx=rollback")
    assert await rows() == before, mismatch(request, rehearsal, "no change by a dry run")
    assert await sql.fetchval(COUNT_KEYS) == 0, f"{operation.title} has kept the key of a dry run"
    real = await sampler.send(request, Prefer="return=minimal", Idempotency_Key="a-key")
    expected = f"{rehearsal.status_code}, as the dry run"
    assert real.status_code == rehearsal.status_code, mismatch(request, real, expected)
    assert "preference-applied" not in real.headers, operation.title
    another = await sampler.send(request, Prefer="tx=rollback", Idempotency_Key="a-key")
    is_run = "idempotent-replayed" not in another.headers
    assert is_run, mismatch(request, another, "a dry run, and no replay")


@every(can_be_rehearsed)
async def test_a_dry_run_checks_what_commit_would_check(
    sampler: Sampler,
    rows: Rows,
    refuse_at_commit: Callable[[], Awaitable[None]],
    operation: Operation,
) -> None:
    is_refused = await writes_rows(sampler, rows, operation)
    request = await sampler.prepare(operation)
    await refuse_at_commit()
    answer = await sampler.send(request, Prefer="tx=rollback")
    expected = "409, as COMMIT would give" if is_refused else "success, since it writes nothing"
    is_right = answer.status_code == 409 if is_refused else answer.is_success
    assert is_right, mismatch(request, answer, expected)


@every(answers_with_a_secret)
async def test_a_dry_run_gives_no_secret(
    sampler: Sampler, rows: Rows, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    before = await rows()
    answer = await sampler.send(request, Prefer="tx=rollback")
    assert answer.status_code == 400, mismatch(request, answer, "400: its answer is the effect")
    assert await rows() == before, mismatch(request, answer, "no change by a dry run")
