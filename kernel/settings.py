"""The service's settings: `APP_…` environment variables or a `.env` file, read at the start."""

import sys
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, cast

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from kernel.identity_settings import IdentitySettings
from kernel.mail_settings import MailSettings
from kernel.safeguards import insecure_values
from kernel.setting_errors import mistakes_of
from kernel.setting_files import EnvFile
from kernel.setting_types import (
    Origins,
    PostgresUrl,
    PrimaryUrl,
    RateLimit,
    RedisUrl,
    Seconds,
    Secret,
    reveal,
)

# uvicorn's own exit status for an app that cannot start: with `--workers`, the parent then stops
# instead of starting the same worker again and again.
STARTUP_FAILURE = 3
ROOT = Path(__file__).parents[1]


NOT_READ = "{} was not read at the start: move it into the settings.py of a slice"
S = TypeVar("S", bound="SliceSettings")


class SliceSettings(BaseSettings):
    """A slice's own settings: a subclass in its `settings.py`, with a prefix of its own.

    `class MailSettings(SliceSettings, env_prefix="MAIL_")` is read with the service's settings, by
    the service, by Alembic and by operators' commands, and its mistakes are reported alike; the
    slice gets it by `settings.of(MailSettings)`.
    """

    model_config = SettingsConfigDict(
        env_file=ROOT / ".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )


class Settings(IdentitySettings, MailSettings, SliceSettings, env_prefix="APP_"):
    """The service's settings: docs/settings.md has their meaning. Times are in seconds."""

    env: Literal["dev", "staging", "prod"] = "dev"
    database_url: PrimaryUrl | None = None
    read_database_url: PostgresUrl | None = None
    signup_open: bool | None = None
    cors_origins: Origins | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] | None = None
    metrics_token: Secret | None = None
    pool_size: Annotated[PositiveInt, Field(le=1000)] = 10
    max_overflow: Annotated[int, Field(ge=0, le=1000)] = 10
    read_pool_size: Annotated[PositiveInt, Field(le=1000)] = 10
    pool_timeout: Seconds = 1.0
    connect_timeout: Seconds = 2.0
    connection_max_age: Annotated[PositiveFloat, Field(le=86_400)] = 1800.0
    statement_timeout: Seconds = 5.0
    lock_timeout: Seconds = 1.0
    http_timeout: Seconds = 4.0
    drain: Annotated[float, Field(ge=0, le=3600)] | None = None
    request_timeout: Seconds = 4.5
    idempotency_retention: PositiveInt = 24 * 3600
    max_body_bytes: PositiveInt = 1024 * 1024
    slow_request: Seconds = 1.0
    rate_limit: RateLimit | None = None
    redis_url: RedisUrl | None = None
    jobs: Literal["on", "off", "only"] = "on"

    _of_slices: dict[type[SliceSettings], SliceSettings] = PrivateAttr(default_factory=dict)

    def of(self, kind: type[S]) -> S:
        """A slice's own settings.

        Raises:
            RuntimeError: the class was not read with the service's settings.
        """
        if kind not in self._of_slices:
            raise RuntimeError(NOT_READ.format(kind.__name__))
        return cast(S, self._of_slices[kind])

    def having(self, *of_slices: SliceSettings) -> Self:
        """A copy with these settings of slices: `settings.having(MailSettings(host="…"))`."""
        copy = self.model_copy()
        copy._of_slices = self._of_slices | {type(part): part for part in of_slices}
        return copy

    @property
    def primary_url(self) -> str | None:
        """Where reads and writes go, or None for the embedded database."""
        return reveal(self.database_url)

    @property
    def replica_url(self) -> str | None:
        """Where reads go, if not to the primary."""
        return reveal(self.read_database_url)

    @property
    def shared_counters_url(self) -> str | None:
        """The Redis in which all replicas count, or None if each process counts by itself."""
        return reveal(self.redis_url)

    @property
    def sign_up_is_open(self) -> bool:
        """Whether anybody may create an account: by default in dev only."""
        return self.env == "dev" if self.signup_open is None else self.signup_open

    @property
    def drain_seconds(self) -> float:
        """Seconds in which the service still answers after SIGTERM: by default 5, and 0 in dev."""
        return (0.0 if self.env == "dev" else 5.0) if self.drain is None else self.drain

    @model_validator(mode="after")
    def _require_outside_dev(self) -> Self:
        required = () if self.env == "dev" else ("database_url", "jwt_secret")
        missing = [name for name in required if getattr(self, name) is None]
        mistakes = [
            *(f"APP_{name.upper()} is required when APP_ENV={self.env}" for name in missing),
            *insecure_values(
                self.env if "env" in self.model_fields_set else None,
                self._texts("database_url", "read_database_url"),
                self._texts("jwt_secret", "jwt_old_secret", "metrics_token"),
            ),
        ]
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    def _texts(self, *names: str) -> dict[str, str]:
        """The values of these settings, by their variables, without those that are unset."""
        values = {f"APP_{name.upper()}": reveal(getattr(self, name)) for name in names}
        return {name: value for name, value in values.items() if value is not None}


def slice_settings() -> list[type[SliceSettings]]:
    """The subclasses of SliceSettings in the slices' `settings.py`."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "features").rglob("settings.py"))
    ]
    return [
        kind
        for name in names
        for kind in vars(import_module(name)).values()
        if isclass(kind) and issubclass(kind, SliceSettings) and kind.__module__ == name
    ]


def variable_prefixes() -> tuple[str, ...]:
    """The prefixes of the variables of all settings, in upper case."""
    kinds: list[type[SliceSettings]] = [Settings, *slice_settings()]
    return tuple(name.upper() for kind in kinds if (name := kind.model_config.get("env_prefix")))


def load_settings() -> Settings:
    """Read the settings, those of slices as well, or end the process with one line per mistake.

    A line names the variable and what is wrong with it, never its value.

    Raises:
        SystemExit: with uvicorn's status for a failed start.
    """
    others = slice_settings()
    file = EnvFile(ROOT / ".env", [Settings, *others])
    lines = [*file.mistakes()]
    settings = _read(Settings, file, lines)
    of_slices = [_read(kind, file, lines) for kind in others]
    if lines or settings is None:
        sys.stderr.write("".join(dict.fromkeys(lines)))
        raise SystemExit(STARTUP_FAILURE)
    return settings.having(*filter(None, of_slices))


def _read(kind: type[S], file: EnvFile, lines: list[str]) -> S | None:
    try:
        return kind()
    except (ValidationError, SettingsError, UnicodeDecodeError, OSError) as error:
        lines += file.located(mistakes_of(kind, error))
    return None
