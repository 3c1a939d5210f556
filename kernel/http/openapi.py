"""What OpenAPI says of an operation besides its own words: the errors and headers that it has."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import httpx
from fastapi import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from kernel.errors import title_of
from kernel.http.dependencies import opened
from kernel.http.preconditions import row_place
from kernel.http.problems import PROBLEM_DETAILS, ErrorForm
from kernel.http.secrets import holds_secret
from kernel.http.signatures import (
    dependencies,
    flatten,
    is_read_as_json,
    is_write,
    may_be_forbidden,
    needs_principal,
    takes_key,
)
from kernel.identity.callers import get_viewer

KEEPS = "A key of your own for this write; sent again, it is answered again and not done again."
KEEPS_NO_SECRET = f"{KEEPS} This answer holds a secret and is not kept: a second time gives 409."
# Which credentials the service takes is known when it is put together: until then, an operation
# only says whether it asks for one.
CALLER, REQUIRED, OPTIONAL = "x-caller", "required", "optional"
REQUEST_HEADERS = {
    "Idempotency-Key": KEEPS,
    "Prefer": "`tx=rollback` for a dry run: checked and answered, but not stored.",
    "If-Match": "The ETag that you read; the row must still have its version, or 412.",
    "If-None-Match": "The ETag that you have; 304 if the answer is still the same.",
}
# What any operation may answer with is told once for all.
GENERAL = {400, 413, 415, 429, 500, 503}
ANY_OTHER = {"description": "Any other error."}
# 1 to 255 visible characters, bare or as a string of RFC 8941 §3.3.3.
KEY_PATTERN = r'^("[!#-\[\]-~]{1,255}"|[!#-~][!-~]{0,254})$'
DIGEST, VERSION = "Of this very answer.", "The row's version, and of this very answer."
RESPONSE_HEADERS = {
    "ETag": DIGEST,
    "Idempotent-Replayed": "`true` when this is the answer to an earlier request.",
    "Preference-Applied": "`tx=rollback` after a dry run.",
}


def operation_id(route: APIRoute) -> str:
    """The endpoint's name: what a generated client's method is called."""
    return route.name


def error_response(
    status: int, form: ErrorForm = PROBLEM_DETAILS, **members: Any
) -> dict[str, Any]:
    """An operation's declaration of one more error: `responses={402: error_response(402)}`.

    `members` are the types of what its exception tells besides, its `extras` (RFC 9457 §3.2):
    `error_response(409, left=int)` for `raise OutOfStock("…", left=2)`.
    """
    answer = {"description": title_of(status), **form.content}
    if members and form is PROBLEM_DETAILS:
        (content,) = answer["content"].values()
        content["schema"] = {"allOf": [content["schema"], _object_of(members)]}
    return answer


def _object_of(members: Mapping[str, Any]) -> dict[str, Any]:
    schemas = {
        name: TypeAdapter(kind).json_schema(mode="serialization") for name, kind in members.items()
    }
    if others := [name for name, schema in schemas.items() if "$defs" in schema]:
        raise TypeError(f"{others[0]}: a member of an error is of a type without schemas of others")
    return {"type": "object", "properties": schemas, "required": [*schemas]}


def in_form(
    responses: Mapping[int | str, dict[str, Any]], form: ErrorForm
) -> dict[int | str, dict[str, Any]]:
    """The operation's own declarations; those of `error_response` in the form of its router, which
    says itself what becomes of further members."""
    return {
        status: answer
        if form is PROBLEM_DETAILS or not _is_declared(str(status), answer)
        else error_response(int(status), form)
        for status, answer in responses.items()
    }


def _is_declared(status: str, answer: dict[str, Any]) -> bool:
    """Whether `error_response` has made it."""
    if not status.isdecimal():
        return False
    plain = error_response(int(status))
    content = answer.get("content", {}).get(PROBLEM_DETAILS.media_type, {})
    first, *_ = content.get("schema", {}).get("allOf", (None,))
    return answer == plain or first == plain["content"][PROBLEM_DETAILS.media_type]["schema"]


def declared_errors(route: APIRoute) -> dict[int | str, dict[str, Any]]:
    """The errors that an operation can give, as far as its signature tells; those of GENERAL, which
    are the same everywhere, are its default."""
    parts = list(flatten(route.dependant))
    calls = dependencies(route)
    has_place = any(part.path_params for part in parts)
    takes_input = has_place or any(part.query_params for part in parts) or route.body_field
    told = {
        401: needs_principal(route) or get_viewer in calls,
        403: may_be_forbidden(calls),
        404: has_place,
        409: is_write(route),
        412: _may_be_conditional(route),
        422: is_write(route) or bool(takes_input),
        502: (asks := opened(httpx.AsyncClient) in calls),
        504: asks,
    }
    form: ErrorForm = getattr(route, "errors", PROBLEM_DETAILS)
    errors: dict[int | str, dict[str, Any]] = {
        status: error_response(status, form) for status, given in told.items() if given
    }
    return errors | {"default": ANY_OTHER | form.content}


def document_headers(route: APIRoute) -> dict[str, Any]:
    """The headers that the boundary understands and gives, as a part of the operation."""
    write, is_read, is_secret = is_write(route), is_read_as_json(route), holds_secret(route)
    has_version = row_place(route.response_model) is not None and (write or is_read)
    asked = {
        "Idempotency-Key": takes_key(route),
        "Prefer": write and not is_secret,
        "If-Match": _may_be_conditional(route),
        "If-None-Match": is_read,
    }
    given = {
        "ETag": is_read or has_version,
        "Idempotent-Replayed": takes_key(route) and not is_secret,
        "Preference-Applied": asked["Prefer"],
    }
    headers = _described(given, {"ETag": VERSION} if has_version else {})
    answers: dict[str, Any] = {str(_status_of(route)): {"headers": headers}} if headers else {}
    if asked["If-None-Match"]:
        answers["304"] = {"description": "Not Modified"}
    words = REQUEST_HEADERS | ({"Idempotency-Key": KEEPS_NO_SECRET} if is_secret else {})
    parameters = [_parameter(name, words[name]) for name, known in asked.items() if known]
    known: dict[str, Any] = {"parameters": parameters, "responses": answers}
    if needs_principal(route):
        known[CALLER] = REQUIRED
    elif get_viewer in dependencies(route):
        known[CALLER] = OPTIONAL
    return known


def _status_of(route: APIRoute) -> int:
    """The status of a success: the operation's own, or its class's, such as a redirection's."""
    own = route.response_class if isinstance(route.response_class, type) else Response
    status: int = route.status_code or signature(own).parameters["status_code"].default
    return status


def _may_be_conditional(route: APIRoute) -> bool:
    """Whether the URL names a row: that of a POST needs a key for it."""
    names_row = any(part.path_params for part in flatten(route.dependant))
    return is_write(route) and (names_row or route.methods != {"POST"})


def _parameter(name: str, words: str) -> dict[str, Any]:
    schema = {"type": "string"} | ({"pattern": KEY_PATTERN} if words.startswith(KEEPS) else {})
    return {"name": name, "in": "header", "description": words, "schema": schema}


def _described(given: dict[str, bool], words: dict[str, str]) -> dict[str, Any]:
    known = RESPONSE_HEADERS | words
    named = {name: known[name] for name, is_given in given.items() if is_given}
    return {
        name: {"description": words, "schema": {"type": "string"}} for name, words in named.items()
    }
