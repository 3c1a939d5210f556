"""What an answer that is no success looks like: what the document says, in whichever form."""

from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from kernel.errors import title_of
from kernel.http.problems import PROBLEM_DETAILS
from kernel.testing.operations import Operation

MEMBERS = {"error", "message", "status", "title", "detail", "request_id"}


def is_problem(answer: httpx.Response) -> bool:
    """Whether it is the house's form, and not one that a router has instead."""
    return bool(answer.headers.get("content-type") == PROBLEM_DETAILS.media_type)


def forms(app: FastAPI) -> list[dict[str, Any]]:
    """The contents of failures, as OpenAPI has them, in the forms that the app's routers have."""
    routes = [route.original_route for route in iter_route_contexts(app.routes)]
    found = {getattr(route, "errors", PROBLEM_DETAILS) for route in routes} | {PROBLEM_DETAILS}
    return [form.content["content"] for form in found]


def tells_failure(operation: Operation, answer: httpx.Response) -> bool:
    """Whether a failure has the form that the document has for its status."""
    content = (operation.failure(answer.status_code) or {}).get("content", {})
    if answer.headers.get("content-type") not in content:
        return False
    told: dict[str, Any] = answer.json()
    if not is_problem(answer):
        schema = content[answer.headers["content-type"]]["schema"]
        return {*operation.schemas.resolve(schema).get("required", ())} <= told.keys()
    status, request_id = answer.status_code, answer.headers["x-request-id"]
    expected = {"status": status, "title": title_of(status), "request_id": request_id}
    return told.keys() >= MEMBERS and told.items() >= expected.items()
