"""Who calls the service in tests."""

import httpx

PASSWORD = "correct horse battery"


class Caller(httpx.AsyncClient):
    """A client of the service, signed in as the user."""

    user_id: int
    email: str
