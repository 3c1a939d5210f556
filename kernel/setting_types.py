"""The types of settings: what is valid as a database URL, a secret, an origin or a rate."""

import json
import re
from importlib.util import find_spec
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, SecretStr
from pydantic_settings import NoDecode

from kernel.database_urls import (
    TARGETS,
    has_an_empty_host,
    split_hosts,
    target_of,
    with_all_hosts,
    with_target,
)

TAKES_WRITES = (
    "should lead to a server that takes writes: target_session_attrs should be primary or"
    " read-write, and replicas belong into APP_READ_DATABASE_URL"
)


def _postgres_url(url: SecretStr) -> SecretStr:
    """Accept the schemes that platforms hand out; asyncpg reads the rest, `sslmode` included."""
    try:
        parts = urlsplit(url.get_secret_value())
        for host in parts.netloc.rpartition("@")[2].split(","):
            _ = urlsplit(f"//{host}").port  # ValueError for an invalid port
        _ = parts.query and parse_qsl(parts.query, strict_parsing=True)  # as asyncpg does
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise ValueError("should be a URL like postgresql://user:password@host:5432/name")
    if "@" in parts.path:
        raise ValueError("should have the special characters of its password percent-encoded")
    if len(parts.path) < 2 and "name=" not in parts.query and "database=" not in parts.query:
        raise ValueError("should name a database, like postgresql://user:password@host:5432/name")
    text = with_all_hosts("postgresql:" + url.get_secret_value().partition(":")[2])
    if has_an_empty_host(text):
        raise ValueError("should name a host before and behind each comma")
    if target_of(text) not in {None, *TARGETS}:
        raise ValueError(f"should have a target_session_attrs of {', '.join(TARGETS)}")
    return SecretStr(text)


def _takes_writes(url: SecretStr) -> SecretStr:
    """Accept a URL that leads to a primary. For several hosts, "any" becomes "primary": a standby
    may lag, and accept callers whose sign-in has ended on the primary."""
    text = url.get_secret_value()
    target, has_several = target_of(text), len(split_hosts(text)) > 1
    if target in {"standby", "read-only"} or (has_several and target == "prefer-standby"):
        raise ValueError(TAKES_WRITES)
    return SecretStr(with_target(text, "primary")) if has_several and target == "any" else url


def _long_enough(secret: SecretStr) -> SecretStr:
    """RFC 7518 §3.2: a key for HS256 has at least the 256 bits of the hash."""
    if len(secret.get_secret_value().encode()) < 32:
        raise ValueError("should have at least 32 bytes")
    return secret


# A serialized origin (RFC 6454 §6.2), as browsers send it.
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?")


def _separated(value: object) -> object:
    """The items of a JSON list, or of a text that is separated by commas."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.lstrip()[:1] == "[" else value.replace(",", " ").split()
    except ValueError:
        raise ValueError("should be a JSON list, or separated by commas") from None


def _origin(text: str) -> str:
    if text != "*" and not ORIGIN.fullmatch(text):
        raise ValueError("should be an origin like https://app.example.com, without a path, or *")
    return text


def _rate(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,6}/(second|minute|hour|day)", text):
        raise ValueError("should be like 600/minute: per second, minute, hour or day")
    return text


def _redis_url(url: SecretStr) -> SecretStr:
    if find_spec("redis") is None:
        raise ValueError("needs the package redis: uv sync --group redis")
    from redis.asyncio import ConnectionPool  # noqa: PLC0415  # an optional package

    try:
        ConnectionPool.from_url(url.get_secret_value())
    except ValueError:
        raise ValueError("should be a URL like redis://:password@host:6379/0") from None
    return url


PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
PrimaryUrl = Annotated[PostgresUrl, AfterValidator(_takes_writes)]
Secret = Annotated[SecretStr, AfterValidator(_long_enough)]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_separated)
]
RateLimit = Annotated[str, AfterValidator(_rate)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
Seconds = Annotated[PositiveFloat, Field(le=3600)]


def reveal(secret: SecretStr | None) -> str | None:
    """The text of a secret that is set."""
    return None if secret is None else secret.get_secret_value()
