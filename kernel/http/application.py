"""A service: the app that the slices are mounted on, and the resources that its lifespan opens."""

import gc
import hashlib
import logging
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import cache
from threading import RLock
from typing import Any

import httpx
from fastapi import FastAPI

from kernel.data.commands import database_of, development
from kernel.data.readers import open_probe, open_reader, open_replica
from kernel.data.readiness import SchemaReader
from kernel.data.resources import Resources, resources_of
from kernel.data.schema import require_one_head
from kernel.data.writer import open_writer
from kernel.fast.routing import Switchboard
from kernel.http.cors import allow_origins
from kernel.http.docs import credential_headers, describe_api, lead_to_docs, serve_docs
from kernel.http.drain import Drain
from kernel.http.exceptions import install_error_handlers
from kernel.http.gauges import sampled
from kernel.http.inclusions import ReadingApp
from kernel.http.mail_page import open_mail
from kernel.http.middleware import RequestMiddleware
from kernel.http.openapi import operation_id
from kernel.http.telemetry import OFF, exporting, telemetry_config
from kernel.http.welcome import welcome
from kernel.identity.callers import Credentials, CredentialScheme
from kernel.identity.passwords import PasswordVault
from kernel.identity.rate_limit import RateLimiter, rate_limiter
from kernel.identity.throttle import Throttle
from kernel.logs import configure_logging
from kernel.metric_files import SHARING, share_metrics, stop_sharing
from kernel.settings import Settings, load_settings

# Only uvicorn imports this module, if it was started with it.
PROTOCOL = "kernel.http.server"
BARE = f"nothing limits slow and oversized requests: start uvicorn with --http {PROTOCOL}:Protocol"
logger = logging.getLogger(__name__)


def build_app(
    settings: Settings, *, name: str, version: str, credentials: Sequence[CredentialScheme] = ()
) -> FastAPI:
    """An app without slices: `app.include_router(…)` mounts them.

    `name` is the service's: the title of its OpenAPI document, the issuer and audience of its
    tokens, the name of its connections, and the prefix of its API keys. `credentials` are the
    schemes by which callers are identified. Nothing is opened before the app's lifespan.

    Raises:
        ValueError: two credential schemes have one name.
    """
    telemetry = telemetry_config()
    app = ReadingApp(
        title=name,
        version=version,
        lifespan=_lifespan,
        openapi_url=None if settings.env == "prod" else "/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        telemetry=telemetry,
    )
    app.state.resources = resources = Resources(name, version, settings)
    resources.put(Credentials(tuple(credentials)))
    resources.put(Drain(resources))
    is_traced = telemetry is not OFF
    _add_middleware(app, resources, credential_headers(credentials), is_traced=is_traced)
    install_error_handlers(app)
    describe_api(app, credentials)
    if app.openapi_url:
        serve_docs(app)
    app.router.middleware_stack = Switchboard(app)
    return app


def _add_middleware(
    app: FastAPI, resources: Resources, varying: Sequence[str], *, is_traced: bool
) -> None:
    settings = resources.settings
    limiter = rate_limiter(settings, resources.slug, varying)
    if limiter:
        resources.put(limiter)
    app.add_middleware(RequestMiddleware, resources, varying, limiter, is_traced=is_traced)
    if settings.cors_origins:
        allow_origins(app, settings.cors_origins)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what requests need, and close it in reverse. A database server may be unreachable."""
    resources = resources_of(app)
    settings = resources.settings
    _configure_logging(settings)
    if settings.env != "dev" and PROTOCOL not in sys.modules and settings.jobs != "only":
        logger.warning(BARE)
    if SHARING.problem:
        logger.warning(SHARING.problem)
    # Two metrics of one name fail now, not at the first scrape.
    import kernel.exposition  # noqa: F401, PLC0415  # which a command need not import

    async with AsyncExitStack() as stack:
        stack.callback(stop_sharing)
        stack.enter_context(resources.until_closed())
        stack.enter_context(resources.get(Drain).on_signals())
        await stack.enter_async_context(exporting(resources.slug, resources.version))
        if settings.rate_limit:
            stack.push_async_callback(resources.get(RateLimiter).close)
        await _open_database(resources, stack.enter_async_context)
        resources.put(await stack.enter_async_context(_make_client(settings)))
        resources.put(PasswordVault(throttle=_throttle(resources)))
        open_mail(app)
        if settings.env == "dev":
            lead_to_docs(app)
            for line in welcome(resources):
                logger.info(line)
        await stack.enter_async_context(sampled(resources))
        # What lives as long as the process is left out of each garbage collection.
        gc.freeze()
        yield


async def _open_database(
    resources: Resources, open_: Callable[[AbstractAsyncContextManager[Any]], Awaitable[Any]]
) -> None:
    """Open the pools; each connection is made when it is first needed."""
    settings = resources.settings
    url = await open_(database_of(settings))
    resources.signing_secret = settings.signing_secret or development().kept_secret()
    resources.writer = await open_(open_writer(url, settings, resources.slug))
    resources.primary = await open_(open_reader(url, settings, resources.slug))
    resources.reader = resources.primary
    if replica_url := settings.replica_url:
        replica = open_replica(replica_url, settings, resources.slug, primary=resources.primary)
        resources.reader = await open_(replica)
    resources.schema = SchemaReader(await open_(open_probe(url, settings, resources.slug)))


@cache
def _tls_context() -> ssl.SSLContext:
    """One for all apps of a process: reading the certificates takes 18 ms."""
    return httpx.create_ssl_context()


def _make_client(settings: Settings) -> httpx.AsyncClient:
    # Proxies and .netrc from the environment are for the people who use the machine.
    return httpx.AsyncClient(timeout=settings.http_timeout, verify=_tls_context(), trust_env=False)


def _throttle(resources: Resources) -> Throttle:
    settings = resources.settings
    # The old secret while there is one: instances that still use it alone share the counts.
    secret = settings.old_signing_secret or resources.signing_secret
    return Throttle(
        key=hashlib.sha256(b"throttle" + secret.encode()).digest(),
        most_failures=settings.sign_in_failures,
        window=timedelta(seconds=settings.sign_in_window),
        has_worker=settings.jobs != "off",
    )


def app_on_demand(create_app: Callable[[Settings], FastAPI]) -> Callable[[str], FastAPI]:
    """The `__getattr__` of a module whose `app` is made on first access, as uvicorn does it.

    So importing the module reads no settings, ends no process and touches no log handler (PEP 562).
    """
    apps: list[FastAPI] = []
    lock = RLock()

    def get(name: str) -> FastAPI:
        if name != "app":
            raise AttributeError(f"module {create_app.__module__!r} has no attribute {name!r}")
        with lock:
            if not apps:
                share_metrics()
                require_one_head()
                settings = load_settings()
                _configure_logging(settings)  # before the lifespan: uvicorn logs until then
                apps.append(create_app(settings))
        return apps[0]

    return get


def _configure_logging(settings: Settings) -> None:
    is_dev = settings.env == "dev"
    configure_logging(settings.log_level, form=settings.log_format, full=is_dev)
