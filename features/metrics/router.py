import hmac
from typing import Annotated

from fastapi import Header, HTTPException, Response

from kernel import Router, Service, Settings, Unauthorized

router = Router(tags=["metrics"])


@router.get("/metrics", include_in_schema=False)
async def get_metrics(
    service: Service,
    accept: Annotated[str, Header()] = "",
    authorization: Annotated[str, Header()] = "",
) -> Response:
    """What all workers of the service have counted, for Prometheus. Never asks the database."""
    _check_scraper(service.settings, authorization)
    content, media_type = service.render_metrics(accept)
    return Response(content, headers={"Content-Type": media_type, "Cache-Control": "no-store"})


def _check_scraper(settings: Settings, authorization: str) -> None:
    """Require the configured token. Without one, allow every scraper in dev, and none elsewhere.

    Raises:
        Unauthorized: the request has no token, or another one.
        HTTPException: 404; no token is configured outside dev.
    """
    if settings.metrics_token is None:
        if settings.env != "dev":
            raise HTTPException(404)
        return
    scheme, _, token = authorization.partition(" ")
    expected = settings.metrics_token.get_secret_value()
    is_right = hmac.compare_digest(token.encode(), expected.encode())
    if scheme.lower() != "bearer" or not is_right:
        raise Unauthorized("a scraper's token is needed", headers={"WWW-Authenticate": "Bearer"})
