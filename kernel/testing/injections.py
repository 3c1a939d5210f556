"""The walk over races for a unique value, and over SQL injection."""

import json

import httpx

from kernel.testing.asking import (  # noqa: F401  # fixtures of the modules that import all of this
    AT_ONCE,
    all_of,
    mismatch,
    password_hash,
    quoted,
    running_app,
)
from kernel.testing.contract import has_fields, has_parameters, with_value
from kernel.testing.hostile import INJECTIONS
from kernel.testing.instruments import Ask, Rows
from kernel.testing.operations import Operation
from kernel.testing.sampler import Sampler
from kernel.testing.walking import every


def races(operation: Operation) -> bool:
    return operation.method == "POST" and operation.is_json and operation.has_twins


@every(races)
async def test_of_racing_twins_exactly_one_is_made(
    sampler: Sampler, ask: Ask, operation: Operation
) -> None:
    for _ in range(5):
        request = await sampler.prepare(operation)
        answers = await all_of([ask(request) for _ in range(AT_ONCE)])
        statuses = sorted(answer.status_code for answer in answers)
        expected = [201] + [409] * (AT_ONCE - 1)
        assert statuses == expected, mismatch(
            request, answers[0], f"{expected}, and not {statuses}"
        )


@every(has_parameters)
async def test_no_text_of_a_parameter_becomes_sql(
    sampler: Sampler, ask: Ask, rows: Rows, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    before = await rows()
    filters = [
        request.with_query(name, quoted(text))
        for name in operation.parameters("query")
        for text in INJECTIONS
    ]
    keys = [
        request.with_key(name, quoted(text))
        for name in operation.parameters("path")
        for text in INJECTIONS
    ]
    for answer in await all_of([ask(request, url) for url in keys]):
        assert answer.status_code in (404, 422), mismatch(request, answer, "404 or 422")
    for answer in await all_of([ask(request, url) for url in filters]):
        expected = "404, 422, or no row for a text that no row has"
        is_nothing = answer.status_code in (404, 422) or finds_nothing(answer)
        assert is_nothing, mismatch(request, answer, expected)
    assert await rows() == before, f"{operation.title} has changed rows for a text in its URL"


def finds_nothing(answer: httpx.Response) -> bool:
    """Whether the answer has no rows: its body is empty, or all lists in it are."""
    if not answer.content or "json" not in answer.headers["content-type"]:
        return not answer.content
    body = answer.json()
    lists = [member for member in body.values() if isinstance(member, list)] if body else []
    return not body or (bool(lists) and not any(lists))


@every(has_fields)
async def test_no_text_of_a_body_becomes_sql(
    sampler: Sampler, ask: Ask, rows: Rows, operation: Operation
) -> None:
    usual = await difference(rows, sampler, operation)
    request = await sampler.prepare(operation)
    values = INJECTIONS if operation.is_form else [json.dumps(text) for text in INJECTIONS]
    requests = [
        await with_value(sampler, request, field, value)
        for field in operation.fields
        for value in values
    ]
    before = await rows()
    answers = await all_of([ask(request) for request in requests])
    gone, new = compare(before, await rows())
    done = sum(answer.is_success for answer in answers)
    # A row that is changed many times counts once: one version of it is gone, and one is new.
    most_gone = usual[0] * min(done, 1)
    most_new = most_gone + max(usual[1] - usual[0], 0) * done
    assert gone <= most_gone and new <= most_new, (  # noqa: PT018  # one thought
        f"{operation.title} has made {new} rows and ended {gone} for {done} requests with SQL in"
        f" their texts\nExpected: at most {most_new} and {most_gone}, as for valid requests"
    )


async def difference(rows: Rows, sampler: Sampler, operation: Operation) -> tuple[int, int]:
    """How many rows a valid request removes and adds; a changed row counts as both."""
    request = await sampler.prepare(operation)
    before = await rows()
    await sampler.send(request)
    return compare(before, await rows())


def compare(before: dict[str, set[str]], after: dict[str, set[str]]) -> tuple[int, int]:
    """How many rows of the first are not in the second, and the other way round."""
    gone = sum(len(before[name] - after[name]) for name in before)
    return gone, sum(len(after[name] - before[name]) for name in after)
