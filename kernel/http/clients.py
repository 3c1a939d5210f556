"""The client's address in one normal form."""

import re
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

from starlette.types import Scope

UNKNOWN = "unknown"
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1
WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([\d.]+):\d+")


def client_of(scope: Scope) -> str:
    """The address that uvicorn reports, or `unknown`, which then counts as one client."""
    client = scope.get("client")
    return normal_address(client[0]) if client else UNKNOWN


@lru_cache(maxsize=4096)
def normal_address(text: str) -> str:
    """The address without port and zone; IPv4 for an IPv4 address mapped into IPv6.

    A proxy may send any text, so what is not an address is `unknown`.
    """
    text = text.strip()[:100]
    if written := WITH_PORT.fullmatch(text):
        text = written[1] or written[2] or ""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return UNKNOWN
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        if address in NAT64:
            return str(ip_address(address.packed[-4:]))
    return str(address)
