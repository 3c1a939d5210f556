"""What a developer is told at the start: where the docs are, and the database."""

from urllib.parse import urlsplit

from kernel.data.resources import Resources
from kernel.http.drain import Drain

WELCOME = "docs: {docs}, database: {database}, its prompt: uv run python -m features psql"
EMBEDDED = "the embedded PostgreSQL in .postgres/"
# An address that means all of the machine's own.
ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # it is told, not bound to


def welcome(resources: Resources) -> str:
    """The line; a password in the database's URL is not in it."""
    docs = f"{_address(resources.get(Drain))}/docs"
    return WELCOME.format(docs=docs, database=_database(resources.settings.primary_url))


def _address(drain: Drain) -> str:
    """Where uvicorn serves, or nothing where that is not known."""
    config = getattr(drain.server, "config", None)
    if config is None or config.uds or config.fd is not None or not config.port:
        return ""
    host = ANY.get(config.host, f"[{config.host}]" if ":" in config.host else config.host)
    return f"{'https' if config.is_ssl else 'http'}://{host}:{config.port}{config.root_path}"


def _database(url: str | None) -> str:
    if url is None:
        return EMBEDDED
    parts = urlsplit(url)
    return f"{parts.path.lstrip('/')} at {parts.netloc.rpartition('@')[2] or 'a socket'}"
