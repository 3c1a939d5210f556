"""Who calls the service in tests."""

import httpx
from fastapi import FastAPI

PASSWORD = "correct horse battery"


class Caller(httpx.AsyncClient):
    """A client of the service, signed in as the user."""

    app: FastAPI
    user_id: int
    email: str
