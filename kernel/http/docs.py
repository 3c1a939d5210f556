"""The docs page, which needs no internet, and the OpenAPI document behind it."""

from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict

from kernel.identity.callers import SCHEMES


class Mistake(BaseModel):
    """One thing wrong with the request: where (`loc`), which rule (`type`), in words (`msg`)."""

    loc: list[str | int]
    type: str
    msg: str


class Problem(BaseModel):
    """The body of every answer that is not a success (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    error: str
    message: str
    status: int
    title: str
    detail: str
    request_id: str
    errors: list[Mistake] | None = None


def describe_api(app: FastAPI) -> None:
    """Add the error form to the app's OpenAPI document."""
    framework: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        document = framework()
        components = document.setdefault("components", {})
        components["securitySchemes"] = _security_schemes()
        schemas = components.setdefault("schemas", {})
        if "Problem" not in schemas:
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= problem.pop("$defs") | {"Problem": problem}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _security_schemes() -> dict[str, Any]:
    """What FastAPI says of the schemes where an operation depends on them."""
    app = FastAPI()
    app.get("/", dependencies=[Depends(scheme) for scheme in SCHEMES])(lambda: None)
    schemes: dict[str, Any] = app.openapi()["components"]["securitySchemes"]
    return schemes


def serve_docs(app: FastAPI) -> None:
    """Serve `/docs` with assets of our own instead of a content delivery network's."""
    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))

    async def docs(request: Request) -> HTMLResponse:
        prefix = request.scope.get("root_path", "").rstrip("/")  # behind a proxy that strips it
        return get_swagger_ui_html(
            openapi_url=f"{prefix}/openapi.json",
            title=app.title,
            oauth2_redirect_url=f"{prefix}/docs/oauth2-redirect",
            swagger_js_url=f"{prefix}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{prefix}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{prefix}/docs/assets/favicon.png",
        )

    async def oauth2_redirect() -> HTMLResponse:
        return get_swagger_ui_oauth2_redirect_html()

    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/docs/oauth2-redirect", oauth2_redirect, include_in_schema=False)
