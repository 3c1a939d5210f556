"""What is wrong with a setting, in a line that names its variable and never its value."""

import re
from collections.abc import Iterator

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError


def mistakes_of(
    kind: type[BaseSettings], error: ValidationError | SettingsError | UnicodeDecodeError | OSError
) -> Iterator[str]:
    """A line for each mistake, without a line break at its end."""
    if isinstance(error, ValidationError):
        for mistake in error.errors(include_url=False, include_context=False, include_input=False):
            name = _variable(kind, *mistake["loc"])
            yield f"{name}{mistake['msg'].removeprefix('Value error, ')}"
    elif isinstance(error, SettingsError):
        field = re.search(r'field "(\w+)"', str(error))
        yield f"{_variable(kind, field[1] if field else '.env')}should be JSON"
    elif isinstance(error, OSError):
        yield f".env: cannot be read: {error.strerror}"
    else:
        yield ".env: should be UTF-8"


def _variable(kind: type[BaseSettings], *loc: int | str) -> str:
    """The variable that a mistake is about, with the path within its value: `APP_X.0: `."""
    if not loc:
        return ""
    field, *path = map(str, loc)
    # A field with an alias is read by that alone, so it is no name of `model_fields`.
    prefix = kind.model_config.get("env_prefix", "") if field in kind.model_fields else ""
    return ".".join([f"{prefix}{field}".upper(), *path]) + ": "
