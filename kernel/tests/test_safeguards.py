"""What would be open to others unless somebody says otherwise is refused at the start."""

import asyncio
import secrets

import certifi
import pytest

from kernel.data.connections import connect
from kernel.data.outages import Outages
from kernel.errors import DatabaseUnavailable
from kernel.settings import ROOT, STARTUP_FAILURE, Settings, load_settings

SECRET = "8b1f0c67d2e94a35" * 2
ELSEWHERE = "postgresql://user:canary@db.example/name"
DECIDED = f"{ELSEWHERE}?sslmode=verify-full"
OURS = ("DATABASE_URL", "READ_DATABASE_URL")
LIBPQ = ("PGHOST", "PGSERVICE", "PGSSLMODE")


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    for name in LIBPQ:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start(monkeypatch, capsys):
    """Read settings as at a start; what is told about them, a line each."""

    def start(**given):
        for name, value in given.items():
            monkeypatch.setenv(name if name in LIBPQ else f"APP_{name}", value)
        try:
            load_settings()
            status = 0
        except SystemExit as end:
            status = end.code
        lines = capsys.readouterr().err.splitlines()
        assert "canary" not in str(lines)
        assert status == (STARTUP_FAILURE if lines else 0)
        return lines

    return start


def names(lines):
    return [line.partition(":")[0] for line in lines]


# Which stage is it?


@pytest.mark.parametrize("name", OURS)
def test_a_database_on_another_host_does_not_mean_dev(start, name):
    (line,) = start(**{name: DECIDED})
    assert line == (
        "APP_ENV: should be set (dev, staging or prod) when a database is on another host"
    )


@pytest.mark.parametrize("env", ["dev", "staging", "prod"])
def test_a_stage_that_is_set_is_used(start, env):
    assert start(ENV=env, DATABASE_URL=DECIDED, JWT_SECRET=SECRET) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@localhost/n",
        "postgresql://u:p@LOCALHOST:5433/n",
        "postgresql://u:p@127.0.0.1:5432/n",
        "postgresql://u:p@127.8.0.1/n",
        "postgresql://u:p@[::1]:5432/n",
        "postgresql://u:p@localhost,127.0.0.1:5433/n",
        "postgresql:///n",
        "postgresql://u@/n?host=/run/postgresql",
        "postgresql://u@%2Frun%2Fpostgresql/n",
        "postgresql://u@/n?host=localhost",
    ],
)
def test_a_database_of_this_machine_needs_neither_a_stage_nor_tls(start, url):
    assert start(DATABASE_URL=url, READ_DATABASE_URL=url) == []


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("postgresql://u:p@db/n", {}),
        ("postgresql://u:p@10.0.0.7/n", {}),
        ("postgresql://u:p@0.0.0.0/n", {}),
        ("postgresql://u:p@[2001:db8::1]:5432/n", {}),
        ("postgresql://u:p@localhost,db/n", {}),
        ("postgresql://u:p@localhost.example/n", {}),
        ("postgresql://localhost@db/n", {}),
        ("postgresql://u@/n?host=db", {}),
        ("postgresql://u@/n?host=localhost&host=db", {}),
        ("postgresql://u@/n?host=/run/postgresql,db", {}),
        ("postgresql://u@/n?host=[bad", {}),
        ("postgresql:///n", {"PGHOST": "db"}),
        ("postgresql:///n", {"PGSERVICE": "production"}),
        ("postgresql:///n?service=production", {}),
    ],
)
def test_each_way_to_another_host_is_seen(start, url, variables):
    assert names(start(DATABASE_URL=url, **variables)) == ["APP_ENV", "APP_DATABASE_URL"]


# TLS.


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    "query", ["", "?sslmode=", "?sslmode=prefer", "?sslmode=allow", "?sslmode=on"]
)
def test_no_connection_to_another_host_is_in_the_clear_unless_that_is_said(start, name, query):
    given = {"ENV": "prod", "DATABASE_URL": DECIDED, "JWT_SECRET": SECRET}
    (line,) = start(**given | {name: f"{ELSEWHERE}{query}"})
    assert line.startswith(f"APP_{name}: should say how")
    assert "sslmode=verify-full" in line


@pytest.mark.parametrize("mode", ["disable", "require", "verify-ca", "verify-full"])
def test_what_is_said_about_tls_is_for_asyncpg_to_do(start, mode):
    url = f"{ELSEWHERE}?sslmode={mode}"
    assert start(ENV="prod", DATABASE_URL=url, JWT_SECRET=SECRET) == []


def test_libpqs_variable_says_it_as_well(start):
    given = {"ENV": "prod", "DATABASE_URL": ELSEWHERE, "JWT_SECRET": SECRET}
    assert start(**given, PGSSLMODE="verify-full") == []
    assert names(start(**given, PGSSLMODE="prefer")) == ["APP_DATABASE_URL"]


# Secrets.


@pytest.mark.parametrize(
    "secret",
    [
        "at-least-32-bytes-for-example-from-openssl-rand-hex-32",  # .env.example
        "your-256-bit-secret-your-256-bit-secret",
        "a-string-secret-at-least-256-bits-long",  # the one that a well-known page of JWTs shows
        "ChangeMeChangeMeChangeMeChangeMe",
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # FastAPI's tutorial
        "SuperSecretKeyForTokensOfOurService",
        "correct-horse-battery-password-staple",
        "0123456789abcdef0123456789abcdef",
        "12345678901234567890123456789012",
        "qwertyuiopasdfghjklzxcvbnm-qwerty",
        "x" * 32,
        "abc" * 20,
    ],
)
@pytest.mark.parametrize("name", ["JWT_SECRET", "JWT_OLD_SECRET"])
def test_a_secret_that_others_know_signs_nothing_outside_of_dev(start, name, secret):
    given = {"DATABASE_URL": DECIDED, "JWT_SECRET": SECRET, name: secret}
    for env in ("staging", "prod"):
        (line,) = start(**given, ENV=env)
        assert line.startswith(f"APP_{name}: should be random outside of dev")
        assert secret not in line
    assert start(**given, ENV="dev") == []


def test_a_secret_that_is_made_as_it_should_be_is_taken(start):
    for make in (secrets.token_hex, secrets.token_urlsafe) * 20:
        given = {"ENV": "prod", "DATABASE_URL": DECIDED}
        assert start(**given, JWT_SECRET=make(32), JWT_OLD_SECRET=make(32)) == []


@pytest.mark.house
def test_the_example_of_all_settings_is_refused_for_its_secret_alone(start):
    lines = (ROOT / ".env.example").read_text().replace("# APP_", "APP_").splitlines()
    given = dict(line.removeprefix("APP_").split("=", 1) for line in lines if line[:4] == "APP_")
    assert names(start(**given)) == ["APP_JWT_SECRET"]


@pytest.fixture
async def clear_server():
    """A server without TLS: its port, and what clients send it after it has said so."""
    heard = []

    async def refuse_tls(reader, writer):
        await reader.readexactly(8)  # SSLRequest (PostgreSQL manual, "Message Formats")
        writer.write(b"N")
        heard.append(await reader.read(1000))
        writer.close()

    async with await asyncio.start_server(refuse_tls, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], heard


@pytest.mark.parametrize(
    ("mode", "is_told"), [("require", False), ("verify-full", False), ("prefer", True)]
)
async def test_a_server_without_tls_learns_nothing_where_it_is_asked_for(
    clear_server, mode, is_told
):
    port, heard = clear_server
    authority = f"&sslrootcert={certifi.where()}" if mode == "verify-full" else ""
    url = f"postgresql://canary@127.0.0.1:{port}/name?sslmode={mode}{authority}"
    settings = Settings(_env_file=None, database_url=url)
    with pytest.raises(DatabaseUnavailable):
        await connect(url, settings, Outages("writer", url), name="test")
    assert any(b"canary" in message for message in heard) is is_told


async def test_an_authority_that_is_not_there_is_told_in_the_log(clear_server, log, monkeypatch):
    port, heard = clear_server
    monkeypatch.setenv("HOME", "/nowhere")
    url = f"postgresql://u@127.0.0.1:{port}/name?sslmode=verify-full"
    settings = Settings(_env_file=None, database_url=url)
    with pytest.raises(DatabaseUnavailable):
        await connect(url, settings, Outages("writer", url), name="test")
    assert "root certificate file" in str(log.lines("WARNING"))
    assert heard == []
