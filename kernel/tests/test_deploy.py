"""What `deploy/`, the Dockerfile and the workflow say is as narrow as it can be, and works."""

import os
import re
import subprocess
from urllib.parse import urlsplit

import asyncpg
import pytest
import yaml
from anyio import to_thread

from kernel.data.schema import head_revision, upgrade_schema
from kernel.dev.embedded import as_service
from kernel.settings import ROOT, Settings

pytestmark = pytest.mark.house
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
SERVICES = COMPOSE["services"]
PASSWORD = "it's \\ 7"
ROLES = (ROOT / "deploy/roles.sql").read_text()


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
    given = {
        name: re.sub(r"\$\{\w+:\?\}", "0f1e2d3c4b5a6978" * 4, value)
        for name, value in SERVICES["service"]["environment"].items()
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Settings(_env_file=None).env == "prod"


async def test_the_service_owns_its_database_and_is_no_superuser(postgres):
    """With what the image of PostgreSQL runs once."""
    url = urlsplit(SERVICES["service"]["environment"]["APP_DATABASE_URL"])
    role, name = url.username, url.path[1:]
    admin = await asyncpg.connect(postgres)
    await _drop(admin, name, role)
    try:
        binaries = await admin.fetchval("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        command = [f"{binaries}/psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", "-", postgres]
        environment = {**os.environ, "POSTGRES_PASSWORD": PASSWORD}
        await to_thread.run_sync(
            lambda: subprocess.run(command, input=ROLES, text=True, env=environment, check=True)
        )
        ours = as_service(postgres, name).replace("//app@", f"//{role}@")
        await upgrade_schema(ours)
        connection = await asyncpg.connect(ours)
        assert await connection.fetchval("SELECT version_num FROM alembic_version") == (
            head_revision()
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval("SELECT pg_read_file('/etc/passwd')")
        await connection.close()
        passwords = await admin.fetch("SELECT rolname, rolpassword, rolsuper FROM pg_authid")
        known = {name: (bool(password), is_super) for name, password, is_super in passwords}
        assert (known["postgres"], known[role]) == ((False, True), (True, False))
    finally:
        await _drop(admin, name, role)
        await admin.close()


async def _drop(admin, name, role):
    await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await admin.execute(f"DROP ROLE IF EXISTS {role}")
