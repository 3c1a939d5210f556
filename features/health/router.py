from fastapi import Request

from features.health import handlers
from features.health.models import HealthPublic
from kernel.data.schema import head_revision
from kernel.http.router import Router

router = Router(tags=["health"])


@router.get("/livez")
async def get_liveness() -> HealthPublic:
    """Whether the process serves requests. Never asks the database."""
    return HealthPublic()


@router.get("/readyz")
@router.get("/healthz", include_in_schema=False)
async def get_readiness(request: Request) -> HealthPublic:
    """Whether the database answers within a second and has the schema that this code needs."""
    return await handlers.check_readiness(request.app.state.probe, head_revision())
