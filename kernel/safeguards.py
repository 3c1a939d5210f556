"""Settings that are well formed but insecure, and therefore refused."""

import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from urllib.parse import parse_qs, unquote, urlsplit

# Words of examples and placeholders, and texts that people type instead of random ones. One random
# secret in 10⁷ contains one of them.
WELL_KNOWN = (
    *("secret", "password", "change", "example", "default", "insecure", "your-", "your_"),
    *("at-least", "256-bit", "0123456", "1234567", "abcdefg", "qwerty"),
    "09d25e094faa6ca2556c818166b7a956",  # FastAPI's tutorial
)
MIN_DISTINCT = 8  # different characters; one of 10⁷ texts of 32 random hexadecimal digits has fewer
# The values of sslmode that say whether a connection is encrypted. With the others it may be
# unencrypted without a warning (PostgreSQL manual, "SSL Support", table 32.1).
EXPLICIT_MODES = {"disable", "require", "verify-ca", "verify-full"}

STAGE_REQUIRED = "should be set (dev, staging or prod) when a database is on another host"
SSLMODE_REQUIRED = (
    "should say how a connection to another host is encrypted: sslmode=verify-full and sslrootcert,"
    " sslmode=require, or sslmode=disable in a network of your own"
)
GUESSABLE = "should be random outside of dev, like the output of `openssl rand -hex 32`"


def insecure_values(
    stage: str | None, urls: Mapping[str, str], secrets: Mapping[str, str]
) -> Iterator[str]:
    """A line for each insecure value, beginning with its variable. `stage` is the value of APP_ENV,
    None if that is not set, which means dev."""
    if stage is None and any(map(_is_remote, urls.values())):
        yield f"APP_ENV: {STAGE_REQUIRED}"
    for name, url in urls.items():
        if _may_be_unencrypted(url):
            yield f"{name}: {SSLMODE_REQUIRED}"
    for name, secret in secrets.items() if stage not in {None, "dev"} else ():
        if _is_guessable(secret):
            yield f"{name}: {GUESSABLE}"


def _is_guessable(secret: str) -> bool:
    """Whether others may guess the secret, and then make tokens for any account."""
    text = secret.casefold()
    return len(set(text)) < MIN_DISTINCT or any(word in text for word in WELL_KNOWN)


def _may_be_unencrypted(url: str) -> bool:
    """Whether asyncpg would connect to another host without TLS if that does not offer TLS."""
    mode = _option(url, "sslmode") or os.environ.get("PGSSLMODE", "")
    return _is_remote(url) and mode not in EXPLICIT_MODES


def _is_remote(url: str) -> bool:
    """Whether a host of a database's URL, as asyncpg reads it, may be another machine."""
    hosts = unquote(urlsplit(url).netloc.rpartition("@")[2]) or _option(url, "host")
    if not hosts and (_option(url, "service") or "PGSERVICE" in os.environ):
        return True  # the host is in the service file, which is not read here
    hosts = hosts or os.environ.get("PGHOST", "")
    return any(not is_local(host) for host in hosts.split(","))


def _option(url: str, name: str) -> str:
    return parse_qs(urlsplit(url).query).get(name, [""])[-1]


def is_local(host: str) -> bool:
    """Whether a host, perhaps with a port, is a socket's folder or a loopback address."""
    if host.startswith("/"):
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in {"", "localhost"} or ip_address(name).is_loopback
    except ValueError:
        return False
