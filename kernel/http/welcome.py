"""The log lines for a developer at the start: the docs' address, and the database."""

from urllib.parse import urlsplit

from kernel.data.resources import Resources
from kernel.http.drain import Drain

# Two lines that each fit into the 80 columns of a terminal, behind time and level.
DOCS, DATABASE = "docs: {docs}", "database: {database} (uv run python -m features psql)"
EMBEDDED = ".postgres/"
# Addresses that mean all interfaces, and what a browser can open instead.
ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # only shown


def welcome(resources: Resources) -> list[str]:
    """The lines, without the password in the database's URL."""
    docs = f"{_address(resources.get(Drain))}/docs"
    database = _database(resources.settings.primary_url)
    return [DOCS.format(docs=docs), DATABASE.format(database=database)]


def _address(drain: Drain) -> str:
    """The URL that uvicorn serves, or an empty text if it is not known."""
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
