"""The walk over If-Match: of concurrent changes of one version of a row one succeeds, and a stale
ETag changes nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlmodel import SQLModel

from kernel.testing.asking import mismatch
from kernel.testing.fixtures import Connection
from kernel.testing.instruments import Rows
from kernel.testing.operations import Operation
from kernel.testing.requests import Request, describe
from kernel.testing.sampler import Sampler
from kernel.testing.walking import every

CurrentTag = Callable[[Request], Awaitable[str]]


def names_row(operation: Operation) -> bool:
    return "If-Match" in operation.parameters("header")


def is_change(operation: Operation) -> bool:
    """Whether it changes the row that the path names; a POST, an action, may change others."""
    return names_row(operation) and operation.method != "POST"


@pytest.fixture
def current_tag(sampler: Sampler, sql: "Connection[Any]") -> CurrentTag:
    """The ETag of the row that a request names: that of a GET of its path, or of its path up to the
    last key, or else the version of the newest row of the table named before that key, or "1"."""

    async def current_tag(request: Request) -> str:
        path, url = request.operation.path, request.path
        depth = path.rpartition("}")[0].count("/") + 1  # how many segments the row's own path has
        for row_path, row_url in ((path, url), (_cut(path, depth), _cut(url, depth))):
            get = sampler.operations.get(("GET", row_path))
            if get and get.answer_has_version:
                return await _read_tag(sampler, request.operation, row_url)
        segment = path.rpartition("{")[0].rstrip("/").rpartition("/")[2]
        table = SQLModel.metadata.tables.get(segment.replace("-", "_"))
        if table is None or "version" not in table.c:
            return '"1"'
        newest = f'SELECT version FROM "{table.name}" ORDER BY id DESC LIMIT 1'
        return f'"{await sql.fetchval(newest)}"'

    return current_tag


def _cut(path: str, depth: int) -> str:
    return "/".join(path.split("/")[:depth])


async def _read_tag(sampler: Sampler, operation: Operation, url: str) -> str:
    answer = await sampler.caller.get(url)
    if "etag" not in answer.headers:
        advice = operation.advise("BEFORE", "lambda caller, url: ...")
        pytest.fail(
            f"{operation.title}: GET {url} answered {describe(answer)}\nExpected: the row and its"
            f" ETag. If it has to be made first, {advice}",
            pytrace=False,
        )
    return answer.headers["etag"]


@every(names_row)
async def test_a_stale_tag_changes_nothing(
    sampler: Sampler, rows: Rows, current_tag: CurrentTag, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    tag = await current_tag(request)
    before = await rows()
    digest = tag.strip('"').rpartition("-")[2]
    for tags in ('"0"', '"0", "99"', f'"98-{digest}"', tag.strip('"'), "", tag.rstrip('"')):
        answer = await sampler.send(request, If_Match=tags)
        is_stale = answer.status_code == 412
        assert is_stale, mismatch(request, answer, "412", f"If-Match: {tags}")
    assert await rows() == before, f"{operation.title} has changed rows despite a stale tag"


@every(names_row)
@pytest.mark.parametrize(
    "tags", ["{tag}", '"0", {tag}', "*", 'W/"0",{tag}', "W/{tag}", '"{version}"']
)
async def test_a_matching_tag_lets_the_change_through(
    sampler: Sampler, current_tag: CurrentTag, operation: Operation, tags: str
) -> None:
    request = await sampler.prepare(operation)
    tag = await current_tag(request)
    tags = tags.format(tag=tag, version=tag.strip('"').partition("-")[0])
    answer = await sampler.send(request, If_Match=tags)
    assert answer.is_success, mismatch(request, answer, "success", f"If-Match: {tags}")


@every(is_change)
async def test_of_many_changes_of_one_version_exactly_one_wins(
    sampler: Sampler, current_tag: CurrentTag, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    tag = await current_tag(request)
    changes = [request.with_body(await sampler.body(operation)) for _ in range(16)]
    answers = await asyncio.gather(*[sampler.send(change, If_Match=tag) for change in changes])
    statuses = sorted(answer.status_code for answer in answers)
    refusals = {404, 412} if operation.method == "DELETE" else {412}
    repeated = await sampler.send(request)
    if not repeated.is_success:  # what cannot be done twice fails for its own reason
        refusals.add(repeated.status_code)
    is_one = statuses[0] in (200, 204) and set(statuses[1:]) <= refusals
    expected = f"one success, others {refusals}, and not {statuses}"
    assert is_one, mismatch(request, answers[0], expected)
