"""What `deploy/`, the Dockerfile and the workflow say is as narrow as it can be, and works."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import asyncpg
import pytest
import yaml
from anyio import to_thread

from kernel.data.schema import head_revision
from kernel.dev.embedded import as_service, as_superuser, server
from kernel.settings import ROOT, Settings
from kernel.tests.processes import serve
from kernel.tests.test_image import OPTIONS

pytestmark = pytest.mark.house
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
SERVICES = COMPOSE["services"]
# As it is with what `openssl rand -hex 32` prints.
ENVIRONMENT = {
    name: re.sub(r"\$\{\w+:\?\}", "0f1e2d3c4b5a6978" * 4, value)
    for name, value in SERVICES["service"]["environment"].items()
}
PASSWORD = "it's \\ 7"


def read(path):
    return (ROOT / path).read_text()


def test_what_runs_is_named_by_its_hash():
    images = re.findall(r"^FROM (\S+)", read("Dockerfile"), re.MULTILINE)
    images += [each["image"] for each in SERVICES.values() if "image" in each]
    assert len(images) == 3
    assert [each for each in images if not re.search("@sha256:[0-9a-f]{64}$", each)] == []
    steps = re.findall(r"uses: (\S+)", read(".github/workflows/ci.yml"))
    assert len(steps) == 5
    assert [each for each in steps if not re.search("@[0-9a-f]{40}$", each)] == []


def test_the_image_installs_nothing_whose_hash_is_not_in_the_lock():
    for command in re.findall(r"pip[^&]* install[^&]*", read("Dockerfile")):
        assert "--require-hashes" in command


def test_nothing_is_published_to_other_machines():
    ports = [port for each in SERVICES.values() for port in each.get("ports", ())]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert "ports" not in SERVICES["postgres"]
    assert SERVICES["postgres"]["networks"] == ["database"]
    assert COMPOSE["networks"]["database"] == {"internal": True}


def test_what_runs_can_write_nowhere_but_to_what_is_temporary():
    for name in ("migrate", "service"):
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["tmpfs"] == ["/tmp"]  # noqa: S108  # in the container
        assert SERVICES[name]["cap_drop"] == ["ALL"]


UNSAFE = "!{ method GET HEAD OPTIONS } !{ req.hdr(Idempotency-Key) -m found }"


def test_the_balancer_waits_for_longer_than_the_service_and_keeps_for_less_long():
    seconds = {
        row[1]: int(row[2].removesuffix("s"))
        for row in map(str.split, read("deploy/haproxy.cfg").splitlines())
        if row[:1] == ["timeout"] and row[2].endswith("s")
    }
    assert seconds["http-keep-alive"] < int(OPTIONS["--timeout-keep-alive"])
    assert seconds["server"] > int(OPTIONS["--timeout-graceful-shutdown"])
    assert seconds["check"] <= 1


def test_the_balancer_sends_nothing_twice_that_may_have_been_done():
    lines = {" ".join(line.split()) for line in read("deploy/haproxy.cfg").splitlines()}
    assert {
        "retry-on conn-failure empty-response",
        "option redispatch 1",
        "option http-buffer-request",
        "option httpchk GET /readyz",
        "http-request set-header X-Forwarded-For %[src]",
        f"http-request disable-l7-retry if {UNSAFE}",
    } <= lines


def test_the_settings_in_compose_are_valid(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert Settings(_env_file=None).env == "prod"


def test_the_service_owns_its_database_and_is_no_superuser(tmp_path):
    """With what the image of PostgreSQL runs once, on a server of its own."""
    url = urlsplit(ENVIRONMENT["APP_DATABASE_URL"])
    role, name = url.username, url.path[1:]
    with server(tmp_path / "pg", durable=False) as embedded:
        admin = as_superuser(embedded)
        fetch(admin, "ALTER ROLE postgres PASSWORD 'canary'")  # as the image does
        binaries = fetch(admin, "SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        command = [f"{binaries}/psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", "-", admin]
        environment = {**os.environ, "POSTGRES_PASSWORD": PASSWORD}
        subprocess.run(
            command, input=read("deploy/roles.sql"), text=True, env=environment, check=True
        )
        ours = as_service(embedded, name).replace("//app@", f"//{role}@")
        environment = {**os.environ, "APP_DATABASE_URL": ours}
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        assert fetch(ours, "SELECT version_num FROM alembic_version") == head_revision()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            fetch(ours, "SELECT pg_read_file('/etc/passwd')")
        known = "SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = '{}'"
        assert fetch(admin, known.format(role)) is True
        assert fetch(admin, known.format("postgres")) is False


# Docker, as far as `.ci/image` can tell: the service is one that runs here already.
DOCKER = """#!/usr/bin/env bash
echo "$*" >> "$FOLDER/calls"
case "$*" in
    *"features.users create"*) cd "$SOURCE" && exec "$PYTHON" -m features.users create "${@: -2}" ;;
    *" id -u") echo "${RUNS_AS:-10001}" ;;
    *" touch "*) exit "${CANNOT_WRITE:-1}" ;;
    *" stop "*) kill "$SERVICE" ;;
    inspect*) echo "${STATUS:-0}" ;;
esac
"""


@pytest.fixture
async def stand_in(tmp_path, database):
    """Run `.ci/image` with a stand-in for Docker: its exit status, and all that it said."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)

    async def run(**changes):
        process = await asyncio.create_subprocess_exec(
            *("bash", ROOT / ".ci/image"),
            env=environment | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    async with database() as url:
        app = {"env": "prod", "database_url": url, "jwt_secret": ENVIRONMENT["APP_JWT_SECRET"]}
        async with serve(ROOT, **app) as service:
            environment = {
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "URL": f"http://127.0.0.1:{service.port}",
                "FOLDER": str(tmp_path),
                "SOURCE": str(ROOT),
                "PYTHON": sys.executable,
                "SERVICE": str(service.process.pid),
                **{f"APP_{name.upper()}": value for name, value in app.items()},
            }
            yield run, tmp_path, service


@pytest.mark.slow
async def test_the_steps_with_the_image_go_through_and_see_what_is_wrong(stand_in):
    run, folder, service = stand_in
    status, output = await run(RUNS_AS="0")
    assert (status, output.splitlines()[-1]) == (1, "it runs as 0")
    status, output = await run()
    assert status == 0, output
    assert "is well" in output
    assert await to_thread.run_sync(service.process.wait, 15) in {0, -signal.SIGTERM}
    calls = (folder / "calls").read_text().splitlines()
    done = [line.removeprefix("compose --file deploy/compose.yaml ") for line in calls]
    assert done[:2] == ["build", "up --detach service"]
    assert done.count("down --volumes") == 2


def fetch(url, query):
    async def ask():
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(ask())
