"""The form of an error response: what the OpenAPI document declares for its status."""

from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from kernel.errors import title_of
from kernel.http.problems import PROBLEM_DETAILS
from kernel.testing.operations import Operation

MEMBERS = {"error", "message", "status", "title", "detail", "request_id"}


def is_problem(answer: httpx.Response) -> bool:
    """Whether it is a Problem (RFC 9457), and not of a form that its router has instead."""
    return bool(answer.headers.get("content-type") == PROBLEM_DETAILS.media_type)


def forms(app: FastAPI) -> list[dict[str, Any]]:
    """The `content` of error responses, as in OpenAPI, in each form that the app's routers have."""
    routes = [route.original_route for route in iter_route_contexts(app.routes)]
    errors = {getattr(route, "errors", PROBLEM_DETAILS) for route in routes} | {PROBLEM_DETAILS}
    return [form.content["content"] for form in errors]


def tells_failure(operation: Operation, answer: httpx.Response) -> bool:
    """Whether the answer has the media type and the members that the document declares for its
    status; of a Problem, also the right values."""
    content = (operation.failure(answer.status_code) or {}).get("content", {})
    if answer.headers.get("content-type") not in content:
        return False
    body: dict[str, Any] = answer.json()
    if not is_problem(answer):
        schema = content[answer.headers["content-type"]]["schema"]
        return {*operation.schemas.resolve(schema).get("required", ())} <= body.keys()
    status, request_id = answer.status_code, answer.headers["x-request-id"]
    expected = {"status": status, "title": title_of(status), "request_id": request_id}
    return body.keys() >= MEMBERS and body.items() >= expected.items()
