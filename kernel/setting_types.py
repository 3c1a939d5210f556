"""The types of settings: what a value has to be, whatever the service is."""

import re
from importlib.util import find_spec
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PositiveFloat, SecretStr


def _postgres_url(url: SecretStr) -> SecretStr:
    """Accept the schemes that platforms hand out; asyncpg reads the rest, `sslmode` included."""
    try:
        parts = urlsplit(url.get_secret_value())
        for host in parts.netloc.rpartition("@")[2].split(","):
            _ = urlsplit(f"//{host}").port  # raises for one that is no port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise ValueError("should be a URL like postgresql://user:password@host:5432/name")
    if "@" in parts.path:
        raise ValueError("should have the special characters of its password percent-encoded")
    if len(parts.path) < 2 and "name=" not in parts.query and "database=" not in parts.query:
        raise ValueError("should name a database, like postgresql://user:password@host:5432/name")
    return SecretStr("postgresql:" + url.get_secret_value().partition(":")[2])


def _long_enough(secret: SecretStr) -> SecretStr:
    """RFC 7518 §3.2: a key for HS256 has at least the 256 bits of the hash."""
    if len(secret.get_secret_value().encode()) < 32:
        raise ValueError("should have at least 32 bytes")
    return secret


def _rate(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,6}/(second|minute|hour|day)", text):
        raise ValueError("should be like 600/minute: per second, minute, hour or day")
    return text


def _redis_url(url: SecretStr) -> SecretStr:
    if find_spec("redis") is None:
        raise ValueError("needs the package redis: uv sync --group redis")
    from redis.asyncio import ConnectionPool  # noqa: PLC0415  # it may not be there

    try:
        ConnectionPool.from_url(url.get_secret_value())
    except ValueError:
        raise ValueError("should be a URL like redis://:password@host:6379/0") from None
    return url


PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
Secret = Annotated[SecretStr, AfterValidator(_long_enough)]
RateLimit = Annotated[str, AfterValidator(_rate)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
Seconds = Annotated[PositiveFloat, Field(le=3600)]
