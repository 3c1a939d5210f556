"""The walk over reads: a GET changes nothing, HEAD answers like GET, and ETags and methods are as
documented."""

import re
from typing import Any

from kernel.http.openapi import REQUEST_HEADERS
from kernel.testing.asking import (  # noqa: F401  # fixtures of the modules that import all of this
    mismatch,
    password_hash,
    running_app,
)
from kernel.testing.fixtures import Connection, SignUp
from kernel.testing.instruments import TABLES, Ask
from kernel.testing.operations import Operation
from kernel.testing.sampler import Sampler
from kernel.testing.walking import Walk, every

REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'a GET wrote'; END $$
"""
# Gives every row that has a version another one.
CHANGE_ALL = """
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT table_name FROM information_schema.columns
            WHERE table_schema = 'public' AND column_name = 'version'
        LOOP
            EXECUTE format('UPDATE %I SET version = version + 1, updated_at = now()', name);
        END LOOP;
    END $$
"""
TAG = re.compile(r'"(?:(?P<version>\d+)-)?[0-9a-f]+"')
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "BREW"}
HEADERS = {"Idempotency-Key", "Prefer", "If-Match", "If-None-Match"}


def is_get(operation: Operation) -> bool:
    return operation.method == "GET"


def is_first_of_its_path(operation: Operation) -> bool:
    first: str = next(iter(operation.document["paths"][operation.path]))
    return first == operation.method.lower()


def takes_a_tag(operation: Operation) -> bool:
    return "If-None-Match" in operation.parameters("header")


def gives_a_tag(operation: Operation) -> bool:
    return "ETag" in operation.success.get("headers", {})


@every(is_get)
async def test_no_get_writes(
    sampler: Sampler, ask: Ask, sql: "Connection[Any]", operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    await sql.execute(REFUSE)
    try:
        for (table,) in await sql.fetch(TABLES):
            await sql.execute(
                f'CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON "{table}"'
                " FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
            )
        answer = await ask(request)
    finally:
        await sql.execute("DROP FUNCTION refuse() CASCADE")
    assert answer.is_success, mismatch(request, answer, "success, without a change of any row")


@every(is_get)
async def test_head_is_get_without_the_body(sampler: Sampler, operation: Operation) -> None:
    request = await sampler.prepare(operation)
    caller, headers = sampler.caller, dict(request.headers)
    get = await caller.get(request.url, headers=headers)
    head = await caller.head(request.url, headers=headers)
    expected = f"HEAD as GET, without a body, and not {head.status_code}"
    is_alike = (head.status_code, head.content) == (get.status_code, b"")
    assert is_alike, mismatch(request, get, expected)
    per_response = {"x-request-id", "server-timing"}
    assert get.headers.keys() == head.headers.keys(), operation.title
    assert {n: v for n, v in get.headers.items() if n not in per_response} == {
        n: v for n, v in head.headers.items() if n not in per_response
    }, operation.title


# Headers. What writes do with theirs is in `boundary`.


def test_every_header_of_the_boundary_is_one_that_is_tested(walk: Walk) -> None:
    def documenting(name: str) -> list[Operation]:
        return [one for one in walk.operations if name in one.parameters("header")]

    writes = [one for one in walk.operations if one.is_write]
    assert REQUEST_HEADERS.keys() == HEADERS
    authenticated = [one for one in writes if one.spec.get("security")]
    assert all(one in authenticated for one in documenting("Idempotency-Key"))  # it is a caller's
    assert documenting("Prefer") == [one for one in writes if not one.answers_with_a_secret]
    # A POST names a row by a key in its path, or none.
    about_a_row = [one for one in writes if one.method != "POST" or one.parameters("path")]
    assert documenting("If-Match") == about_a_row
    tagged = [one for one in walk.operations if not one.is_write and gives_a_tag(one)]
    assert documenting("If-None-Match") == tagged


@every(takes_a_tag)
async def test_a_get_with_the_current_tag_is_not_modified(
    sampler: Sampler, ask: Ask, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    read = await ask(request)
    tag = read.headers.get("etag", "")
    is_tagged = TAG.fullmatch(tag)
    assert is_tagged, mismatch(request, read, "an ETag of the answer", f"ETag: {tag}")
    for tags in (tag, f"W/{tag}", f'"0", {tag}', "*"):
        answer = await ask(request, headers={**request.headers, "If-None-Match": tags})
        is_known = (answer.status_code, answer.content) == (304, b"")
        assert is_known, mismatch(request, answer, "304", f"If-None-Match: {tags}")
        named = ("etag", "cache-control", "vary")  # RFC 9110 §15.4.5
        is_alike = all(answer.headers.get(name) == read.headers.get(name) for name in named)
        assert is_alike, mismatch(request, answer, f"{named} as with 200")
    version, _, digest = tag.strip('"').rpartition("-")
    for tags in ('"0"', tag.strip('"'), "", f'"{version or 1}"', f'"0-{digest}"'):
        answer = await ask(request, headers={**request.headers, "If-None-Match": tags})
        is_whole = (answer.status_code, answer.content) == (200, read.content)
        assert is_whole, mismatch(request, answer, "200 with the row", f"If-None-Match: {tags}")


@every(takes_a_tag)
async def test_only_the_same_bytes_are_not_modified(
    sampler: Sampler, sign_up: SignUp, sql: "Connection[Any]", operation: Operation
) -> None:
    """Asked again by the same caller and by another one, before and after a change of all rows."""
    if create := sampler.operations.get(("POST", operation.path)):
        await sampler.call(create)  # or a list may be empty
    request = await sampler.prepare(operation)
    read = await sampler.send(request)
    tag = read.headers["etag"]
    another = await sampler.as_another(sign_up)
    for change in ("SELECT 1", CHANGE_ALL):
        await sql.execute(change)
        for asker in (sampler, another):
            whole = await asker.send(request)
            if whole.status_code == 200:
                is_same = whole.content == read.content
                answer = await asker.send(request, If_None_Match=tag)
                expected = "304 for the same bytes" if is_same else "200 for other bytes"
                is_right = answer.status_code == (304 if is_same else 200)
                is_right &= (whole.headers["etag"] == tag) is is_same
                assert is_right, mismatch(request, answer, expected, f"If-None-Match: {tag}")


@every(gives_a_tag)
async def test_an_answer_about_one_row_carries_its_version(
    sampler: Sampler, operation: Operation
) -> None:
    answer = await sampler.succeed(operation)
    tag, body = TAG.fullmatch(answer.headers.get("etag", "")), answer.json()
    version = row_of(body)["version"] if operation.answer_has_version and body else None
    tagged = tag["version"] if tag else "none"
    is_right = tagged == (None if version is None else str(version))
    assert is_right, f"{operation.title} answered ETag {tag} for version {version}"


def row_of(body: dict[str, Any]) -> dict[str, Any]:
    """The row that an answer is about: the body, or the first of its members that has a version."""
    if "version" in body:
        return body
    members = body.values()
    return next(member for member in members if isinstance(member, dict) and "version" in member)


# Methods.


def methods_at(operation: Operation, path: str) -> tuple[set[str], set[str]]:
    """The methods of the operation's path, and those of all documented paths that match this one,
    such as `/articles/{slug}` for `/articles/preview`."""
    paths: dict[str, dict[str, Any]] = operation.document["paths"]
    matching = [known for known in paths if re.fullmatch(pattern_of(known), path)]
    documented = {known: {method.upper() for method in paths[known]} for known in paths}
    of_all = set().union(*(documented[known] for known in (operation.path, *matching)))
    return with_head(documented[operation.path]), with_head(of_all)


def pattern_of(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "[^/]+", path)


def with_head(methods: set[str]) -> set[str]:
    return methods | ({"HEAD"} if "GET" in methods else set())


@every(is_first_of_its_path)
async def test_a_path_has_the_methods_of_the_document_and_no_other(
    sampler: Sampler, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    documented, of_all = methods_at(operation, request.path)
    for method in METHODS - of_all:
        answer = await sampler.caller.request(method, request.url)
        expected = f"405 for {method}, and Allow: {', '.join(documented)}"
        assert answer.status_code == 405, mismatch(request, answer, expected)
        allowed = set(answer.headers["allow"].split(", "))
        is_right = allowed == documented or documented < of_all >= allowed
        assert is_right, mismatch(request, answer, expected, f"Allow: {allowed}")
        content = operation.spec["responses"]["default"]["content"]
        assert answer.headers["content-type"] in content, operation.title
