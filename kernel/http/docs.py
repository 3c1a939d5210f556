"""The docs page, which works without internet, and the OpenAPI document that it shows."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import iter_route_contexts
from fastapi.staticfiles import StaticFiles

from kernel.http.descriptions import add_examples, describe_tags
from kernel.http.hints import add_hints
from kernel.http.openapi import CALLER, REQUIRED
from kernel.http.problems import PROBLEM_DETAILS
from kernel.identity.callers import CredentialScheme

LEAD = "kernel.lead_to_docs"
INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
# data: is for the icons in Swagger UI's style sheet.
POLICY = (
    "default-src 'none'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)


def describe_api(app: FastAPI, schemes: Sequence[CredentialScheme]) -> None:
    """Add the error forms and the credential schemes to the app's OpenAPI document.

    Raises:
        ValueError: two credential schemes have one name.
    """
    if len(_security_schemes(schemes, {})) < len(schemes):
        raise ValueError("two credential schemes have one name: give one a scheme_name")
    framework: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        document = framework()  # a new one whenever the routes have changed
        components = document.setdefault("components", {})
        if "securitySchemes" not in components:
            described = _security_schemes(schemes, document["paths"])
            components["securitySchemes"] = described
            _add_error_forms(app, schemas := components.setdefault("schemas", {}))
            add_hints(document)
            add_examples(schemas)
            document.setdefault("tags", describe_tags(app))
            for operations in document["paths"].values():
                for operation in operations.values():
                    _secure(operation, [{name: []} for name in described])
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _security_schemes(schemes: Sequence[CredentialScheme], paths: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI's descriptions of the schemes, by their names, as FastAPI gives them. A `tokenUrl`
    that is the name of an operation is replaced by that operation's path."""
    app = FastAPI()
    app.get("/", dependencies=[Depends(scheme.security) for scheme in schemes])(lambda: None)
    described: dict[str, Any] = app.openapi().get("components", {}).get("securitySchemes", {})
    addresses = {
        operation.get("operationId"): path.removeprefix("/")
        for path, operations in paths.items()
        for operation in operations.values()
    }
    for flow in chain.from_iterable(s.get("flows", {}).values() for s in described.values()):
        if url := flow.get("tokenUrl"):
            flow["tokenUrl"] = addresses.get(url, url)
    return described


def credential_headers(schemes: Sequence[CredentialScheme]) -> list[str]:
    """The request headers in which the schemes have their credentials. A credential in the query
    is in no header."""
    headers = []
    for described in _security_schemes(schemes, {}).values():
        is_key = described["type"] == "apiKey"
        if is_key and described["in"] == "header":
            headers.append(described["name"])
        elif not is_key or described["in"] == "cookie":
            headers.append("Cookie" if is_key else "Authorization")
    return list(dict.fromkeys(headers))


def _add_error_forms(app: FastAPI, schemas: dict[str, Any]) -> None:
    routes = [route.original_route for route in iter_route_contexts(app.routes)]
    forms = [PROBLEM_DETAILS, *(getattr(route, "errors", PROBLEM_DETAILS) for route in routes)]
    for model in dict.fromkeys(form.model for form in forms):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, part in (schema.pop("$defs", {}) | {model.__name__: schema}).items():
            if schemas.setdefault(name, part) != part:
                raise ValueError(f"two schemas are called {name}: one is of an ErrorForm")


def _secure(operation: dict[str, Any], schemes: list[dict[str, Any]]) -> None:
    """Declare whether a credential is required or optional."""
    caller = operation.pop(CALLER, None)
    if caller and schemes:
        operation["security"] = schemes if caller == REQUIRED else [{}, *schemes]


def _guarded(page: HTMLResponse) -> HTMLResponse:
    """Let a page run its own scripts only, call this service only, and be in no frame (W3C Content
    Security Policy Level 3)."""
    digests = [
        b64encode(hashlib.sha256(script).digest()).decode()
        for script in INLINE_SCRIPT.findall(bytes(page.body))
    ]
    scripts = " ".join(["script-src 'self'", *(f"'sha256-{digest}'" for digest in digests)])
    page.headers["Content-Security-Policy"] = "; ".join([scripts, *POLICY])
    page.headers["X-Frame-Options"] = "DENY"
    return page


def lead_to_docs(app: FastAPI) -> None:
    """Redirect `/` to the docs, unless the service has a route for it."""

    if any(getattr(route, "name", None) == LEAD for route in app.router.routes):
        return  # the app was started before

    async def docs(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '').rstrip('/')}/docs")

    app.add_api_route("/", docs, include_in_schema=False, name=LEAD)


def serve_docs(app: FastAPI) -> None:
    """Serve `/docs` with assets from this service instead of a content delivery network."""
    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))

    async def docs(request: Request) -> HTMLResponse:
        prefix = request.scope.get("root_path", "").rstrip("/")  # behind a proxy that strips it
        page = get_swagger_ui_html(
            openapi_url=f"{prefix}/openapi.json",
            title=app.title,
            oauth2_redirect_url=f"{prefix}/docs/oauth2-redirect",
            swagger_js_url=f"{prefix}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{prefix}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{prefix}/docs/assets/favicon.png",
        )
        return _guarded(page)

    async def oauth2_redirect() -> HTMLResponse:
        return _guarded(get_swagger_ui_oauth2_redirect_html())

    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/docs/oauth2-redirect", oauth2_redirect, include_in_schema=False)
