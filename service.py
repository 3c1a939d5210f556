"""The service: its name, its slices, and the app that `uvicorn service:app` serves."""

from fastapi import FastAPI

from features.auth import router as auth
from features.health import router as health
from features.invitations import router as invitations
from features.items import router as items
from features.jobs import router as jobs
from features.keys import router as keys
from features.metrics import router as metrics
from features.password_resets import router as password_resets
from features.users import router as users
from kernel import Settings, app_on_demand, build_app


def create_app(settings: Settings) -> FastAPI:
    """Build the app; nothing is opened before its lifespan."""
    app = build_app(
        settings,
        name="Julienne",
        version="0.1.0",
        credentials=[auth.BEARER, keys.API_KEY],
    )
    app.include_router(auth.router)
    app.include_router(health.router)
    app.include_router(invitations.router)
    app.include_router(items.router)
    app.include_router(jobs.router)
    app.include_router(keys.router)
    app.include_router(metrics.router)
    app.include_router(password_resets.router)
    app.include_router(users.router)
    return app


# `app` is made when uvicorn asks for it; to import this module does nothing.
__getattr__ = app_on_demand(create_app)
