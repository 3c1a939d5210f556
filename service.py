"""The service: its resources, its slices, and the app that `uvicorn service:app` serves."""

import gc
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from fastapi import FastAPI

from features.auth import router as auth
from features.auth.handlers.access import make_token_authenticator
from features.auth.handlers.issue import make_issuer
from features.health import router as health
from features.items import router as items
from features.keys import router as keys
from features.keys.handlers import authenticate_key
from features.users import router as users
from kernel.context import telemetry
from kernel.data.readers import open_probe, open_reader, open_replica
from kernel.data.schema import require_one_head
from kernel.data.writer import open_writer
from kernel.dev.defaults import embedded_database, kept_secret
from kernel.errors import install_error_handlers
from kernel.fast.routing import Switchboard
from kernel.http.docs import describe_api, serve_docs
from kernel.http.middleware import RequestMiddleware
from kernel.http.openapi import operation_id
from kernel.identity.passwords import PasswordVault
from kernel.logs import configure_logging
from kernel.settings import Settings, load_settings


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what requests need, close it in reverse. Only the embedded database has to be up."""
    settings: Settings = app.state.settings
    async with AsyncExitStack() as stack:
        open_ = stack.enter_async_context
        url = settings.primary_url
        if url is None:
            url = await open_(embedded_database())
        secret = settings.signing_secret or kept_secret()

        app.state.writer = await open_(open_writer(url, settings))
        app.state.reader = await open_(open_reader(url, settings))
        if replica_url := settings.replica_url:
            replica = open_replica(replica_url, settings, primary=app.state.reader)
            app.state.reader = await open_(replica)
        app.state.probe = await open_(open_probe(url, settings))
        app.state.http = await open_(httpx.AsyncClient(timeout=settings.http_timeout))
        app.state.passwords = PasswordVault()
        app.state.mac_key = hashlib.sha256(b"mac" + secret.encode()).digest()

        app.state.issuer = make_issuer(settings, secret, app.state.passwords)
        app.state.authenticators = {
            "bearer": make_token_authenticator(app.state.issuer.signer),
            "api_key": authenticate_key,
        }
        # What lives as long as the process need not be searched for garbage again and again.
        gc.freeze()
        yield


def create_app(settings: Settings) -> FastAPI:
    """Build the app; nothing is opened before its lifespan."""
    configure_logging(settings.log_level, full=settings.env == "dev")
    app = FastAPI(
        title="Julienne",
        version="0.1.0",
        lifespan=lifespan,
        openapi_url=None if settings.env == "prod" else "/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        telemetry=telemetry(),
    )
    app.state.settings = settings
    app.add_middleware(RequestMiddleware, max_body_bytes=settings.max_body_bytes)
    install_error_handlers(app)
    describe_api(app)
    if app.openapi_url:
        serve_docs(app)

    app.include_router(health.router)
    app.include_router(auth.router)
    app.include_router(keys.router)
    app.include_router(users.router)
    app.include_router(items.router)
    app.router.middleware_stack = Switchboard(app)
    return app


require_one_head()
app = create_app(load_settings())
