"""The walk over input: valid or not, it meets the same rules in every operation.

Each answer is also checked against the OpenAPI document: its status is declared, and a failure has
the declared form. Fields are also those of nested objects, of lists and of envelopes.
"""

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from kernel.testing.asking import (  # noqa: F401  # fixtures of the modules that import all of this
    AT_ONCE,
    all_of,
    mismatch,
    password_hash,
    quoted,
    running_app,
)
from kernel.testing.failures import is_problem
from kernel.testing.fixtures import Connection
from kernel.testing.hostile import documents, fragments, texts
from kernel.testing.instruments import Ask, Rows
from kernel.testing.operations import Operation
from kernel.testing.requests import Request
from kernel.testing.sampler import Sampler
from kernel.testing.schemas import Field, Place, drop, put, written
from kernel.testing.walking import Walk, every

FORM = "application/x-www-form-urlencoded"
COLUMNS = """
    SELECT DISTINCT column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name NOT IN ('alembic_version', 'idempotency_keys')
"""


def has_parameters(operation: Operation) -> bool:
    return bool(operation.parameters("path") or operation.parameters("query"))


def has_fields(operation: Operation) -> bool:
    """Whether it takes JSON or a form without files."""
    return operation.is_json or operation.media_type == FORM


def is_document(operation: Operation) -> bool:
    return operation.is_json


async def lists_are_whole(walk: Walk, sampler: Sampler, ask: Ask) -> None:
    """Read every list: a row that was stored and cannot be read would break those that show it."""
    for operation in walk.operations:
        if operation.is_list:
            request = await sampler.prepare(operation)
            answer = await ask(request, request.with_query("limit", "100"))
            if answer.status_code == 403 and sampler.caller is not sampler.admin:
                continue  # the list is not for the role that calls the operation under test
            assert answer.status_code == 200, mismatch(request, answer, "200, a list that is whole")


# Hostile values.


@every(has_parameters)
async def test_no_parameter_breaks_an_operation(
    walk: Walk, sampler: Sampler, ask: Ask, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    urls = [
        request.with_query(name, quoted(text))
        for name, schema in operation.parameters("query").items()
        for text in texts(schema.get("maxLength"))
    ]
    for name in operation.parameters("path"):
        # An empty one, or one with a slash, makes another path.
        urls += [
            request.with_key(name, quoted(text)) for text in texts(None) if "/" not in text > ""
        ]
    answers = await all_of([ask(request, url) for url in urls])
    assert len(answers) >= 40
    await lists_are_whole(walk, sampler, ask)


@pytest.mark.slow
@every(has_fields)
async def test_no_value_of_a_field_breaks_an_operation(
    walk: Walk, sampler: Sampler, ask: Ask, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    hostile = texts if operation.is_form else fragments
    requests = [
        await with_value(sampler, request, field, value)
        for field in operation.fields
        for value in hostile(field.schema.get("maxLength"))
    ]
    answers = await all_of([ask(request) for request in requests])
    assert len(answers) >= 40 * bool(operation.fields)
    await lists_are_whole(walk, sampler, ask)


async def with_value(sampler: Sampler, request: Request, field: Field, value: str) -> Request:
    """The request with this value in the field, and valid ones in the others."""
    operation = request.operation
    body = await sampler.body(operation)
    for companion in companions(operation, field):
        path = (*field.path[:-1], companion.name)
        body = put(body, path, operation.value(companion.schema))
    if operation.is_form:
        form = {**body, field.name: value.encode(errors="surrogatepass")}
        return request.with_raw(urlencode(form).encode())
    return request.with_raw(written(body, field.path, value))


def companions(operation: Operation, field: Field) -> Iterator[Field]:
    """The fields that this one requires (`dependentRequired` of JSON Schema)."""
    for place in operation.places:
        if place.path == field.path[:-1]:
            names = place.schema.get("dependentRequired", {}).get(field.name, [])
            paths = {(*place.path, name) for name in names}
            yield from (each for each in operation.fields if each.path in paths)


@every(is_document)
async def test_no_document_breaks_an_operation(
    sampler: Sampler, ask: Ask, rows: Rows, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    before = await rows()
    for document in wrong_documents(request):
        spent = time.process_time()
        answer = await ask(request.with_raw(document))
        spent = time.process_time() - spent
        assert spent < 0.5, mismatch(
            request, answer, "less than 0.5 s of CPU", document
        )  # 1.3 once
        refused = answer.status_code in (400, 413, 415, 422)
        assert refused, mismatch(request, answer, "400, 413, 415 or 422", document)
    assert await rows() == before, f"{operation.title} has changed rows for a wrong document"


def wrong_documents(request: Request) -> Iterator[bytes]:
    """Documents that the operation has to refuse, as the body and in place of each inner object."""
    operation = request.operation
    places = operation.places or [Place((), {"properties": {"no_field": {}}})]
    for place in places if places[0].path == () else [Place((), {}), *places]:
        name = next(iter(place.schema.get("properties", {})), "no_field")
        for document in documents(name):
            if not place.path and not is_valid_body(operation, document):
                yield document
            elif place.path and not is_valid_at(place, document):
                yield written(request.body, place.path, document)


def is_valid_at(place: Place, document: bytes) -> bool:
    """Whether this is a null where the object may be one, or nothing, which empties a list of one
    element."""
    return not document.strip() or (document == b"null" and place.takes_null)


def is_valid_body(operation: Operation, document: bytes) -> bool:
    """Whether this is an empty list, and the operation takes one."""
    schema = operation.body or {}
    return document == b"[]" and schema.get("type") == "array" and not schema.get("minItems")


@every(has_fields)
async def test_a_body_of_another_kind_is_refused(
    sampler: Sampler, ask: Ask, rows: Rows, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    body = request.body
    content = (urlencode(body) if operation.is_form else json.dumps(body)).encode()
    before = await rows()
    kinds = ("text/plain", "application/xml", "application/json+x", "", ";", "a" * 5000)
    wrong = [request.with_raw(content, kind) for kind in kinds]
    zipped = {**request.headers, "Content-Encoding": "gzip", "Content-Type": operation.media_type}
    wrong.append(request.with_raw(b" " * 1024 * 1025, "application/json"))
    answers = [await ask(mistaken) for mistaken in wrong]
    answers.append(await ask(request.with_raw(content), headers=dict(request.headers)))
    answers.append(await ask(request.with_raw(gzip.compress(content)), headers=zipped))
    for answer in answers:
        refused = answer.status_code in {400, 413, 415, 422}
        assert refused, mismatch(request, answer, "400, 413, 415 or 422 for a body of another kind")
    assert await rows() == before, f"{operation.title} has changed rows for a body of another kind"


# Fields.


def mistakes(request: Request) -> Iterator[tuple[Field, Any]]:
    """Each field with an invalid body: one without the field, if it is required, and one with null,
    if it is not nullable. A form has no null."""
    for field in request.operation.fields:
        if field.is_required:
            yield field, drop(request.body, field.path)
        if not field.takes_null and not request.operation.is_form:
            yield field, put(request.body, field.path, None)


def needs_something(operation: Operation) -> bool:
    is_form = operation.is_form
    needed = (field.is_required or not (field.takes_null or is_form) for field in operation.fields)
    return has_fields(operation) and any(needed)


@every(needs_something)
async def test_a_required_field_is_there_and_is_not_null(
    sampler: Sampler, ask: Ask, rows: Rows, operation: Operation
) -> None:
    request = await sampler.prepare(operation)
    before = await rows()
    for field, mistaken in mistakes(request):
        answer = await ask(request.with_body(mistaken))
        expected = f"422 that names {field.name}, which is missing or null"
        assert answer.status_code == 422, mismatch(request, answer, expected)
        if is_problem(answer):
            is_named = field.name in str(answer.json()["errors"][0]["loc"])
            assert is_named, mismatch(request, answer, expected)
    assert await rows() == before, f"{operation.title} has changed rows for a body that it refused"


@every(is_document)
async def test_a_column_that_is_not_the_clients_cannot_be_set(
    sampler: Sampler, ask: Ask, rows: Rows, sql: "Connection[Any]", operation: Operation
) -> None:
    columns = {row[0] for row in await sql.fetch(COLUMNS)}
    request = await sampler.prepare(operation)
    before = await rows()
    for place in operation.places:
        foreign = columns - place.schema["properties"].keys()
        assert place.path or foreign >= {"id", "version", "created_at"}, operation.title
        for column in (*foreign, "is_admin", "__class__", "model_config"):
            body = put(request.body, (*place.path, column), 1)
            answer = await ask(request.with_body(body))
            expected = f"422: no field {column} in {place.path or 'the body'}"
            assert answer.status_code == 422, mismatch(request, answer, expected)
            if is_problem(answer):
                kind = answer.json()["errors"][0]["type"]
                assert kind == "extra_forbidden", mismatch(request, answer, expected)
    assert await rows() == before, f"{operation.title} has changed rows for a body that it refused"
