"""The settings of tokens and sign-ins."""

from typing import Annotated

from pydantic import BaseModel, Field, PositiveInt

from kernel.setting_types import Secret, reveal


class IdentitySettings(BaseModel):
    """The fields about identity, a part of `Settings`; times are in seconds."""

    jwt_secret: Secret | None = None
    jwt_old_secret: Secret | None = None
    jwt_lifetime: Annotated[PositiveInt, Field(le=86_400)] = 900
    refresh_lifetime: Annotated[PositiveInt, Field(le=365 * 86_400)] = 30 * 86_400
    sign_in_failures: Annotated[PositiveInt, Field(le=1_000_000)] = 10
    sign_in_window: Annotated[PositiveInt, Field(le=86_400)] = 300

    @property
    def signing_secret(self) -> str | None:
        """The key that signs access tokens, or None: in dev, one is generated and kept."""
        return reveal(self.jwt_secret)

    @property
    def old_signing_secret(self) -> str | None:
        """The previous key, whose tokens are still valid."""
        return reveal(self.jwt_old_secret)
