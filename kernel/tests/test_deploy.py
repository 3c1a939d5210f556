"""What `deploy/`, the Dockerfile and the workflow say is as narrow as it can be, and works."""

import asyncio
import os
import re
import subprocess
import sys
from urllib.parse import urlsplit

import asyncpg
import pytest
import yaml

from kernel.data.schema import head_revision
from kernel.dev.embedded import as_service, as_superuser, server
from kernel.settings import ROOT, Settings

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
    assert len(steps) == 2
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


def test_its_settings_are_taken(monkeypatch):
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


def fetch(url, query):
    async def ask():
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(ask())
