"""What the operator decides, by `APP_…` environment variables or a `.env` file, read once."""

import sys
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

# uvicorn's own exit status for an app that cannot start: with `--workers`, the parent then stops
# instead of starting the same worker again and again.
STARTUP_FAILURE = 3
ROOT = Path(__file__).parents[1]


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


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
Secret = Annotated[SecretStr, AfterValidator(_long_enough)]
Seconds = Annotated[PositiveFloat, Field(le=3600)]


class Settings(BaseSettings):
    """The service's settings; README.md lists them with their meaning. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="APP_",
        env_file=ROOT / ".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    env: Literal["dev", "staging", "prod"] = "dev"
    database_url: PostgresUrl | None = None
    read_database_url: PostgresUrl | None = None
    jwt_secret: Secret | None = None
    jwt_old_secret: Secret | None = None
    jwt_lifetime: Annotated[PositiveInt, Field(le=86_400)] = 900
    refresh_lifetime: Annotated[PositiveInt, Field(le=365 * 86_400)] = 30 * 86_400
    sign_in_failures: Annotated[PositiveInt, Field(le=1_000_000)] = 10
    sign_in_window: Annotated[PositiveInt, Field(le=86_400)] = 300
    signup_open: bool | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    pool_size: Annotated[PositiveInt, Field(le=1000)] = 10
    max_overflow: Annotated[int, Field(ge=0, le=1000)] = 10
    read_pool_size: Annotated[PositiveInt, Field(le=1000)] = 10
    pool_timeout: Seconds = 1.0
    connect_timeout: Seconds = 2.0
    statement_timeout: Seconds = 5.0
    lock_timeout: Seconds = 1.0
    http_timeout: Seconds = 5.0
    idempotency_retention: PositiveInt = 24 * 3600
    max_body_bytes: PositiveInt = 1024 * 1024

    @property
    def primary_url(self) -> str | None:
        """Where reads and writes go, or None for the embedded database."""
        return _reveal(self.database_url)

    @property
    def replica_url(self) -> str | None:
        """Where reads go, if not to the primary."""
        return _reveal(self.read_database_url)

    @property
    def signing_secret(self) -> str | None:
        """The key of access tokens, or None for one that is made and kept in dev."""
        return _reveal(self.jwt_secret)

    @property
    def old_signing_secret(self) -> str | None:
        """The key that was in use before, whose tokens are still good."""
        return _reveal(self.jwt_old_secret)

    @property
    def sign_up_is_open(self) -> bool:
        """Whether anybody may create an account: by default in dev only."""
        return self.env == "dev" if self.signup_open is None else self.signup_open

    @model_validator(mode="after")
    def _production_needs_its_own(self) -> Self:
        missing = [name for name in ("database_url", "jwt_secret") if getattr(self, name) is None]
        if self.env != "dev" and missing:
            raise ValueError(
                "\n".join(
                    f"APP_{name.upper()} is required when APP_ENV={self.env}" for name in missing
                )
            )
        return self


def load_settings() -> Settings:
    """Read the settings, or end the process with one line per mistake.

    A line names the variable and what is wrong with it, never its value.

    Raises:
        SystemExit: with uvicorn's status for a failed start.
    """
    try:
        return Settings()
    except ValidationError as error:
        for mistake in error.errors(include_url=False, include_context=False, include_input=False):
            name = f"APP_{mistake['loc'][0]}".upper() + ": " if mistake["loc"] else ""
            sys.stderr.write(f"{name}{mistake['msg'].removeprefix('Value error, ')}\n")
        raise SystemExit(STARTUP_FAILURE) from None
