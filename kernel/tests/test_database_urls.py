"""What a database's URL says, as asyncpg reads it."""

import random
from urllib.parse import quote

import pytest
from asyncpg import connect_utils
from pydantic import ValidationError

from kernel.database_urls import TARGETS, hosts_of, split_hosts, target_of, with_all_hosts
from kernel.settings import STARTUP_FAILURE, Settings, load_settings

VARIABLES = ("PGHOST", "PGPORT", "PGTARGETSESSIONATTRS", "PGSERVICE", "PGSERVICEFILE")
NAMES = ("dsn", "host", "port", "user", "password", "passfile", "database", "ssl", "service")
FURTHER = ("servicefile", "direct_tls", "server_settings", "target_session_attrs", "krbsrvname")


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def parsed(url):
    """Where asyncpg goes, and what it says there: on a socket it asks for no TLS."""
    addresses, parameters = connect_utils._parse_connect_dsn_and_args(
        **dict.fromkeys((*NAMES, *FURTHER, "gsslib")) | {"dsn": url}
    )
    tls = {"ssl": bool(parameters.ssl)}
    on_socket = parameters._replace(ssl=False, sslmode=None)
    return [
        (address, on_socket if isinstance(address, str) else parameters._replace(**tls))
        for address in addresses
    ]


def in_turn(url):
    """The same of each of the URLs that it is split into."""
    return [found for each in split_hosts(url) for found in parsed(each)]


def addresses(url):
    return [address for address, _ in parsed(url)]


SEVERAL = {
    "postgresql://u:p@a,b/n": 2,
    "postgresql://u:p@a:1,b:2,c/n?sslmode=require": 3,
    "postgresql://u%40x:p%2Cq@a:1,b:2/n?options=-c%20x%3Dy": 2,
    "postgresql://a,b/n?user=u": 2,
    "postgresql://u@[::1],127.0.0.1:2/n": 2,
    "postgresql://u@%2Frun%2Fa,%2Frun%2Fb/n": 2,
    "postgresql://u@a:%31,b/n?port=7": 2,
    "postgresql://u@a:1,b:2/n?host=c,d": 2,
    "postgresql://u:p@/n?host=a,b": 2,
    "postgresql://u@/n?host=a:1,b:2&target_session_attrs=primary": 2,
    "postgresql://u@/n?host=a,b&port=1,2&search_path=x,y": 2,
    "postgresql://u@/n?host=a,b&port=7": 2,
    "postgresql:///n?host=/run/a,/run/b,c:3&user=u&passfile=/none": 3,
    "postgresql://u@/n?host=z&host=a%2Cb": 2,
    "postgresql://u@/n?host=[::1]:5,b&sslmode=disable": 2,
}
ALONE = (
    "postgresql://u@a/n",
    "postgresql:///n",
    "postgresql://u@/n?host=/run/a",
    "postgresql://u@/n?host=a&port=7",
)


@pytest.mark.parametrize("url", SEVERAL)
def test_a_url_of_several_hosts_is_one_for_each(url):
    try:
        whole = parsed(url)
    except ValueError:  # newer versions of Python refuse a list that begins with brackets
        pytest.skip("this Python does not read it")
    assert len(split_hosts(url)) == SEVERAL[url]
    assert in_turn(url) == whole


@pytest.mark.parametrize("url", ALONE)
def test_a_url_of_one_host_is_left_as_it_is(url):
    assert split_hosts(url) == [url]


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("postgresql://u@a,b/n", {"PGPORT": "1,2"}),
        ("postgresql://u@/n?host=a,b", {"PGPORT": "1,2"}),
        ("postgresql:///n?service=x", {}),
        ("postgresql://u@/n?host=a,b&service=x", {}),
        ("postgresql://u@/n?service=x", {"PGHOST": "a,b"}),
        ("postgresql://u@/n?host=a,b,c&port=1,2", {}),
        ("postgresql://u@x@a,b/n", {}),
    ],
)
def test_what_only_asyncpg_reads_is_left_to_it(monkeypatch, url, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert split_hosts(url) == [url]


@pytest.mark.parametrize("hosts", ["a,b", "a:1,b", "/run/a,b:2"])
@pytest.mark.parametrize("port", ["", "7"])
@pytest.mark.parametrize("query", ["", "?port=8", "?port=8,9", "?sslmode=require"])
def test_the_environments_hosts_are_split_as_well(monkeypatch, hosts, port, query):
    monkeypatch.setenv("PGHOST", hosts)
    if port:
        monkeypatch.setenv("PGPORT", port)
    url = f"postgresql://u:p@/n{query}"
    assert len(split_hosts(url)) == 2
    assert in_turn(url) == parsed(url)


def test_made_up_urls_are_read_as_asyncpg_reads_them():
    chance = random.Random(7)  # noqa: S311  # always the same
    hosts = ("a", "b.example", "127.0.0.1", "::1", "/run/x", "/run/y z", "höst")

    def spec(host, is_quoted):
        port = chance.choice(("", ":1", ":6543"))
        if host[0] == "/":
            return quote(host, safe="") if is_quoted else host
        return (f"[{host}]" if ":" in host else host) + port

    for _ in range(500):
        named = chance.choices(hosts, k=chance.randint(2, 4))
        options = chance.sample(
            ["port=7", "sslmode=require", "application_name=x%26y", "password=%2C%40", "a=b+c"], 2
        )
        if named[0][0] != ":" and chance.random() < 0.5:
            netloc = ",".join(spec(host, True) for host in named if host != "::1")
            url = f"postgresql://u:p@{netloc}/n?{'&'.join(options)}"
        else:
            listed = quote(",".join(spec(host, False) for host in named), safe="")
            url = f"postgresql://u@/n?{'&'.join([*options, f'host={listed}'])}"
        assert in_turn(url) == parsed(url), url


def test_hosts_that_are_named_in_turn_are_all_meant():
    """SQLAlchemy's manual, "Multihost connections" of asyncpg."""
    url = "postgresql://u@/n?host=a:1&sslmode=disable&host=b:2"
    given = Settings(_env_file=None, env="dev", read_database_url=url).replica_url
    assert addresses(given) == [("a", 1), ("b", 2)]
    ports = with_all_hosts("postgresql://u@/n?host=a&host=b&port=1&port=2")
    assert addresses(ports) == [("a", 1), ("b", 2)]
    assert with_all_hosts("postgresql://u@/n?host=a&port=1") == "postgresql://u@/n?host=a&port=1"


def test_a_log_line_names_all_hosts_and_no_password():
    assert hosts_of("postgresql://u:secret@a:1,b:2/n") == "a:1,b:2"
    assert hosts_of("postgresql://u@/n?host=/run/a&password=secret") == "/run/a"


# target_session_attrs.


@pytest.mark.parametrize(
    ("url", "variable", "target"),
    [
        ("postgresql://u@a/n", None, "any"),
        ("postgresql://u@a/n", "primary", "primary"),
        ("postgresql://u@a/n?target_session_attrs=standby", "primary", "standby"),
        (
            "postgresql://u@a/n?target_session_attrs=any&target_session_attrs=primary",
            None,
            "primary",
        ),
        ("postgresql://u@a/n?target_session_attrs=", "primary", "primary"),
        ("postgresql:///n?service=x", "primary", None),
        ("postgresql:///n?service=x&target_session_attrs=primary", None, "primary"),
    ],
)
def test_what_a_server_has_to_be_is_said_by_the_url_or_the_environment(
    monkeypatch, url, variable, target
):
    if variable:
        monkeypatch.setenv("PGTARGETSESSIONATTRS", variable)
    assert target_of(url) == target
    if target:
        assert {each.target_session_attrs.value for _, each in parsed(url)} == {target}


def of_primary(hosts, target):
    url = f"postgresql://u@{hosts}/n?sslmode=disable&target_session_attrs={target}"
    return Settings(_env_file=None, env="dev", database_url=url).primary_url


@pytest.mark.parametrize("hosts", ["a", "a,b"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_database_is_one_that_takes_writes_or_the_start_is_refused(hosts, target):
    is_refused = target in {"standby", "read-only"} or (hosts, target) == ("a,b", "prefer-standby")
    if is_refused:
        with pytest.raises(ValidationError, match=r"target_session_attrs should be primary"):
            of_primary(hosts, target)
    else:
        of_several = "primary" if target == "any" else target
        assert target_of(of_primary(hosts, target)) == (of_several if hosts == "a,b" else target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_replica_may_be_each_of_them(target):
    url = f"postgresql://u@a,b/n?sslmode=disable&target_session_attrs={target}"
    found = Settings(_env_file=None, env="dev", read_database_url=url).replica_url
    assert target_of(found) == target


@pytest.mark.parametrize("name", ["DATABASE_URL", "READ_DATABASE_URL"])
@pytest.mark.parametrize(
    ("hosts", "query", "told"),
    [
        ("a,b", "&target_session_attrs=canary", "should have a target_session_attrs of any, "),
        ("a,b", "&target_session_attrs=read_write", "should have a target_session_attrs of any, "),
        ("a,,b", "", "should name a host before and behind each comma"),
        ("a,", "", "should name a host before and behind each comma"),
        ("", "&host=a,&host=b", "should name a host before and behind each comma"),
        ("a", "&canary", "should be a URL like"),
        ("a", "&&x=y", "should be a URL like"),
    ],
)
def test_what_asyncpg_could_not_read_is_refused_at_the_start(
    monkeypatch, capsys, name, hosts, query, told
):
    monkeypatch.setenv("APP_ENV", "dev")
    monkeypatch.setenv(f"APP_{name}", f"postgresql://u:p@{hosts}/n?sslmode=disable{query}")
    with pytest.raises(SystemExit) as end:
        load_settings()
    assert end.value.code == STARTUP_FAILURE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"APP_{name}: {told}")
    assert "canary" not in line
