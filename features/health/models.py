from typing import Literal

from sqlmodel import SQLModel


class HealthPublic(SQLModel):
    status: Literal["ok"] = "ok"


class ReadinessPublic(HealthPublic):
    version: str
    revision: str
