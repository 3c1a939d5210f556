"""What a database's URL says of its servers, as asyncpg reads it (its manual, `connect()`)."""

import os
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

TARGET = "target_session_attrs"
TARGETS = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")


def split_hosts(url: str) -> list[str]:
    """One URL for each host, in their order; the URL itself where only asyncpg can tell the hosts:
    from a service file, from its own defaults, or with a list of default ports."""
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    if "@" in credentials or "," in os.environ.get("PGPORT", ""):
        return [url]
    if hosts:
        return [_with(parts, netloc=f"{credentials}{at}{host}") for host in hosts.split(",")]
    return _split_query(parts) or [url]


def target_of(url: str) -> str | None:
    """The URL's `target_session_attrs`, or None where a service file may set it."""
    options = _options(urlsplit(url))
    if TARGET in options or "service" not in options:
        return options.get(TARGET, os.environ.get("PGTARGETSESSIONATTRS", "any"))
    return None


def with_all_hosts(url: str) -> str:
    """The URL with several `host` options, as in SQLAlchemy's manual (`host=a:1&host=b:2`), in
    asyncpg's form, `host=a:1,b:2`: of repeated options, asyncpg takes the last one."""
    parts = urlsplit(url)
    fields, lists = parts.query.split("&"), dict[str, list[str]]()
    for field in fields:
        name, _, value = field.partition("=")
        lists.setdefault(name, []).append(value)
    repeated = [name for name in ("host", "port") if len(lists.get(name, ())) > 1]
    if not repeated:
        return url
    others = [field for field in fields if field.partition("=")[0] not in repeated]
    joined = [f"{name}={','.join(lists[name])}" for name in repeated]
    return _with(parts, query="&".join([*others, *joined]))


def with_target(url: str, target: str | None) -> str:
    """The URL with this `target_session_attrs`, if any: appended, since the last one counts."""
    if target is None:
        return url
    parts = urlsplit(url)
    return _with(parts, query=f"{parts.query}&{TARGET}={target}".lstrip("&"))


def hosts_of(url: str) -> str:
    """The hosts and ports of a database URL, or the folder of its socket, without credentials."""
    parts = urlsplit(url)
    query_hosts = [value for name, value in parse_qsl(parts.query) if name == "host"]
    return ",".join([parts.netloc.rpartition("@")[2], *query_hosts]).strip(",")


def has_an_empty_host(url: str) -> bool:
    """Whether a list of hosts has an empty item, as in `a,,b`, which asyncpg cannot read."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2] or _options(parts).get("host", "")
    return "," in hosts and not all(hosts.split(","))


def _split_query(parts: SplitResult) -> list[str]:
    """A URL for each of the hosts that the query or the environment names, if asyncpg reads them
    from there."""
    options = _options(parts)
    hosts = (options.pop("host", "") or os.environ.get("PGHOST", "")).split(",")
    ports = options.pop("port", "").split(",")
    if "service" in options or len(hosts) == 1 or len(ports) not in {1, len(hosts)}:
        return []
    if len(ports) == 1:
        ports *= len(hosts)
    pairs = zip(hosts, ports, strict=True)
    queries = [options | {"host": host} | ({"port": port} if port else {}) for host, port in pairs]
    return [_with(parts, query=urlencode(query)) for query in queries]


def _with(parts: SplitResult, *, netloc: str | None = None, query: str | None = None) -> str:
    netloc = parts.netloc if netloc is None else netloc
    query = parts.query if query is None else query
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def _options(parts: SplitResult) -> dict[str, str]:
    # Of several with one name the last one counts, for asyncpg too.
    return dict(parse_qsl(parts.query))
