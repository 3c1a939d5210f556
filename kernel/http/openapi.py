"""What the kernel adds to an operation in OpenAPI: its errors and headers, from its signature."""

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
# The credential schemes are known when the app is built. Until then, an operation has a marker of
# whether it asks for a credential.
CALLER, REQUIRED, OPTIONAL = "x-caller", "required", "optional"
REQUEST_HEADERS = {
    "Idempotency-Key": KEEPS,
    "Prefer": "`tx=rollback` for a dry run: checked and answered, but not stored.",
    "If-Match": "The ETag that you read; the row must still have its version, or 412.",
    "If-None-Match": "The ETag that you have; 304 if the answer is still the same.",
}
# Errors that any operation may have are documented as its default response.
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

    `members` are the types of the exception's `extras` (RFC 9457 §3.2):
    `error_response(409, left=int)` for `raise OutOfStock("…", left=2)`.

    Raises:
        TypeError: a member's type has schemas of its own, as a model with other models has.
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
        raise TypeError(f"{others[0]}: the type of an error's member should not have other models")
    return {"type": "object", "properties": schemas, "required": [*schemas]}


def in_form(
    responses: Mapping[int | str, dict[str, Any]], form: ErrorForm
) -> dict[int | str, dict[str, Any]]:
    """The operation's own declarations; those made by `error_response` in the router's form, which
    decides what becomes of further members."""
    return {
        status: answer
        if form is PROBLEM_DETAILS or not _is_declared(str(status), answer)
        else error_response(int(status), form)
        for status, answer in responses.items()
    }


def _is_declared(status: str, answer: dict[str, Any]) -> bool:
    """Whether the declaration was made by `error_response`."""
    if not status.isdecimal():
        return False
    plain = error_response(int(status))
    content = answer.get("content", {}).get(PROBLEM_DETAILS.media_type, {})
    first, *_ = content.get("schema", {}).get("allOf", (None,))
    return answer == plain or first == plain["content"][PROBLEM_DETAILS.media_type]["schema"]


def declared_errors(route: APIRoute) -> dict[int | str, dict[str, Any]]:
    """The errors that an operation can have, as far as its signature tells. Those of GENERAL, which
    any operation can have, are its default response."""
    parts = list(flatten(route.dependant))
    calls = dependencies(route)
    has_place = any(part.path_params for part in parts)
    takes_input = has_place or any(part.query_params for part in parts) or route.body_field
    possible = {
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
        status: error_response(status, form)
        for status, can_happen in possible.items()
        if can_happen
    }
    return errors | {"default": ANY_OTHER | form.content}


def document_headers(route: APIRoute) -> dict[str, Any]:
    """The request and response headers of the boundary, as a part of the operation in OpenAPI."""
    write, is_read, is_secret = is_write(route), is_read_as_json(route), holds_secret(route)
    has_version = row_place(route.response_model) is not None and (write or is_read)
    request_headers = {
        "Idempotency-Key": takes_key(route),
        "Prefer": write and not is_secret,
        "If-Match": _may_be_conditional(route),
        "If-None-Match": is_read,
    }
    response_headers = {
        "ETag": is_read or has_version,
        "Idempotent-Replayed": takes_key(route) and not is_secret,
        "Preference-Applied": request_headers["Prefer"],
    }
    headers = _described(response_headers, {"ETag": VERSION} if has_version else {})
    answers: dict[str, Any] = {str(_status_of(route)): {"headers": headers}} if headers else {}
    if request_headers["If-None-Match"]:
        answers["304"] = {"description": "Not Modified"}
    texts = REQUEST_HEADERS | ({"Idempotency-Key": KEEPS_NO_SECRET} if is_secret else {})
    parameters = [_parameter(name, texts[name]) for name, has in request_headers.items() if has]
    operation: dict[str, Any] = {"parameters": parameters, "responses": answers}
    if needs_principal(route):
        operation[CALLER] = REQUIRED
    elif get_viewer in dependencies(route):
        operation[CALLER] = OPTIONAL
    return operation


def _status_of(route: APIRoute) -> int:
    """The status of a success: the operation's, or its response class's, such as a redirect's."""
    kind = route.response_class if isinstance(route.response_class, type) else Response
    status: int = route.status_code or signature(kind).parameters["status_code"].default
    return status


def _may_be_conditional(route: APIRoute) -> bool:
    """Whether If-Match makes sense: the URL of a write names a row; a POST's needs a key for it."""
    names_row = any(part.path_params for part in flatten(route.dependant))
    return is_write(route) and (names_row or route.methods != {"POST"})


def _parameter(name: str, text: str) -> dict[str, Any]:
    schema = {"type": "string"} | ({"pattern": KEY_PATTERN} if text.startswith(KEEPS) else {})
    return {"name": name, "in": "header", "description": text, "schema": schema}


def _described(headers: dict[str, bool], own_texts: dict[str, str]) -> dict[str, Any]:
    texts = RESPONSE_HEADERS | own_texts
    return {
        name: {"description": texts[name], "schema": {"type": "string"}}
        for name, has in headers.items()
        if has
    }
