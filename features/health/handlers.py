import asyncio

from features.health.models import ReadinessPublic
from kernel import Resources, Unavailable

TIMEOUT_SECONDS = 1


async def check_readiness(service: Resources) -> ReadinessPublic:
    if service.is_draining:
        raise Unavailable("the service is stopping")
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            schema = await service.schema.read()
    except TimeoutError:
        raise Unavailable("the database does not answer") from None
    if schema.mistake:
        raise Unavailable(schema.mistake)
    return ReadinessPublic(version=service.version, revision=" ".join(sorted(schema.revisions)))
