"""The API's description: errors declared for every operation, and a docs page without internet."""

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles

from features.kernel.errors import TITLES, Problem
from features.kernel.identity import get_admin, get_principal

PROBLEM = {
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
}


def operation_id(route: APIRoute) -> str:
    """The endpoint's name: what a generated client's method is called."""
    return route.name


def is_write(route: APIRoute) -> bool:
    """Whether a method of the route may change something (RFC 9110 §9.2.1)."""
    return not {"GET", "HEAD", "OPTIONS"}.issuperset(route.methods or ())


def declared_errors(route: APIRoute) -> dict[int | str, dict[str, Any]]:
    """The errors that an operation can give, as far as its signature tells."""
    parts = list(_flatten(route.dependant))
    calls = {part.call for part in parts}
    takes_input = any(part.path_params or part.query_params for part in parts) or route.body_field
    told = {
        400: route.body_field is not None,
        401: get_principal in calls,
        403: get_admin in calls,
        404: any(part.path_params for part in parts),
        409: is_write(route),
        413: True,
        415: route.body_field is not None,
        422: bool(takes_input),
        500: True,
        503: True,
        504: True,
    }
    return {status: error_response(status) for status, given in told.items() if given}


def error_response(status: int) -> dict[str, Any]:
    """An operation's declaration of one more error: `responses={403: error_response(403)}`."""
    return {"description": TITLES[status], **PROBLEM}


def _flatten(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for part in dependant.dependencies:
        yield from _flatten(part)


def describe_api(app: FastAPI) -> None:
    """Add the error form to the app's OpenAPI document."""
    framework: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        document = framework()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if "Problem" not in schemas:
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= problem.pop("$defs") | {"Problem": problem}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def serve_docs(app: FastAPI) -> None:
    """Serve `/docs` with assets of our own instead of a content delivery network's."""
    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))

    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            oauth2_redirect_url="/docs/oauth2-redirect",
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="/docs/assets/favicon.png",
        )

    async def oauth2_redirect() -> HTMLResponse:
        return get_swagger_ui_oauth2_redirect_html()

    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/docs/oauth2-redirect", oauth2_redirect, include_in_schema=False)
