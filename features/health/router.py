"""What load balancers and orchestrators ask."""

from features.health import handlers
from features.health.models import HealthPublic, ReadinessPublic
from kernel import Router, Service

router = Router(tags=["health"])


@router.get("/livez")
async def get_liveness() -> HealthPublic:
    """Whether the process serves requests. Never asks the database."""
    return HealthPublic()


@router.get("/readyz")
@router.get("/healthz", include_in_schema=False)
async def get_readiness(service: Service) -> ReadinessPublic:
    """Whether the database answers within a second and has the schema that this version needs, or a
    later one, and takes writes; with this version, and the migration that the database is at."""
    return await handlers.check_readiness(service)
