from features.health import handlers
from features.health.models import HealthPublic
from kernel import Router, Service

router = Router(tags=["health"])


@router.get("/livez")
async def get_liveness() -> HealthPublic:
    """Whether the process serves requests. Never asks the database."""
    return HealthPublic()


@router.get("/readyz")
@router.get("/healthz", include_in_schema=False)
async def get_readiness(service: Service) -> HealthPublic:
    """Whether the database answers within a second and has the schema that this code needs."""
    return await handlers.check_readiness(service)
