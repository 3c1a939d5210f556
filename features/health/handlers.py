import asyncio

from sqlalchemy import String, column, select, table

from features.health.models import HealthPublic
from kernel import Resources, Unavailable

PATIENCE = 1  # second
CURRENT_REVISION = select(column("version_num", String)).select_from(table("alembic_version"))


async def check_readiness(service: Resources) -> HealthPublic:
    try:
        async with asyncio.timeout(PATIENCE):
            found = await service.probe.fetch(CURRENT_REVISION)
    except TimeoutError:
        raise Unavailable("the database does not answer") from None
    if service.is_behind([row["version_num"] for row in found]):
        raise Unavailable("the database's schema is behind")
    return HealthPublic()
