"""What settings must not leave open: which values are well formed and refused all the same."""

import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from urllib.parse import parse_qs, unquote, urlsplit

# Words of examples, of placeholders, and of what one types instead of something random. A secret
# that is made as it should be has none of them but once in 10⁷ times.
WELL_KNOWN = (
    *("secret", "password", "change", "example", "default", "insecure", "your-", "your_"),
    *("at-least", "256-bit", "0123456", "1234567", "abcdefg", "qwerty"),
    "09d25e094faa6ca2556c818166b7a956",  # FastAPI's tutorial
)
DISTINCT = 8  # characters; 32 random hexadecimal ones have fewer once in 10⁷ times
# Each of the others may send all in the clear, and nobody learns of it (PostgreSQL manual, "SSL
# Support", table 32.1); this one at least says so.
DECIDED = {"disable", "require", "verify-ca", "verify-full"}

UNKNOWN_STAGE = "should be said (dev, staging or prod) when a database is on another host"
UNDECIDED = (
    "should say how a connection to another host is encrypted: sslmode=verify-full and sslrootcert,"
    " sslmode=require, or sslmode=disable in a network of your own"
)
GUESSABLE = "should be random outside of dev: what `openssl rand -hex 32` prints, say"


def open_ends(
    stage: str | None, urls: Mapping[str, str], secrets: Mapping[str, str]
) -> Iterator[str]:
    """What would leave something open, each with its variable: `stage` is what APP_ENV says, and
    None if it does not, which means dev."""
    if stage is None and any(map(_is_elsewhere, urls.values())):
        yield f"APP_ENV: {UNKNOWN_STAGE}"
    for name, url in urls.items():
        if _may_be_clear(url):
            yield f"{name}: {UNDECIDED}"
    for name, secret in secrets.items() if stage not in {None, "dev"} else ():
        if _is_guessable(secret):
            yield f"{name}: {GUESSABLE}"


def _is_guessable(secret: str) -> bool:
    """Whether others may know it: whoever does makes tokens for anybody."""
    text = secret.casefold()
    return len(set(text)) < DISTINCT or any(word in text for word in WELL_KNOWN)


def _may_be_clear(url: str) -> bool:
    """Whether asyncpg would go on in the clear, to another host, if that does not offer TLS."""
    mode = _option(url, "sslmode") or os.environ.get("PGSSLMODE", "")
    return _is_elsewhere(url) and mode not in DECIDED


def _is_elsewhere(url: str) -> bool:
    """Whether any host of a database's URL, as asyncpg reads it, may be another machine."""
    hosts = unquote(urlsplit(url).netloc.rpartition("@")[2]) or _option(url, "host")
    if not hosts and (_option(url, "service") or "PGSERVICE" in os.environ):
        return True  # a file says it
    hosts = hosts or os.environ.get("PGHOST", "")
    return any(not is_here(host) for host in hosts.split(","))


def _option(url: str, name: str) -> str:
    return parse_qs(urlsplit(url).query).get(name, [""])[-1]


def is_here(host: str) -> bool:
    """Whether it is a socket's folder, or an address of this machine alone; a port may follow."""
    if host.startswith("/"):
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in {"", "localhost"} or ip_address(name).is_loopback
    except ValueError:
        return False
