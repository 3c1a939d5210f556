import asyncio

from features.health.models import ReadinessPublic
from kernel import Resources, Unavailable

PATIENCE = 1  # second


async def check_readiness(service: Resources) -> ReadinessPublic:
    if service.is_draining:
        raise Unavailable("the service is stopping")
    try:
        async with asyncio.timeout(PATIENCE):
            schema = await service.schema.read()
    except TimeoutError:
        raise Unavailable("the database does not answer") from None
    if schema.mistake:
        raise Unavailable(schema.mistake)
    return ReadinessPublic(version=service.version, revision=" ".join(sorted(schema.revisions)))
