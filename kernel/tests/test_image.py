"""What the image holds is enough to migrate, to operate and to serve, and holds no more."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys

import pytest
from uvicorn.importer import import_from_string

from kernel.http.server import Protocol
from kernel.settings import ROOT
from kernel.tests.processes import serve, variables_of_slices

SECRET = "a1b2c3d4e5f60789" * 2
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# What it starts, but for where it listens and how many workers there are.
(COMMAND,) = map(json.loads, re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE))
OPTIONS = dict(zip(COMMAND[2::2], COMMAND[3::2], strict=True))
(PROTOCOL,) = re.findall(r"^ENV UVICORN_HTTP=(.*)$", DOCKERFILE, re.MULTILINE)


def tree_of_the_image(folder):
    """The build context, as Docker reads .dockerignore: the last rule that matches decides."""
    rules = (ROOT / ".dockerignore").read_text().split()
    for top in (path for path in ROOT.iterdir() if path.name[0] != "."):
        for path in [top, *top.rglob("*")]:
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and not is_ignored(name, rules):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / name)
    return folder


def is_ignored(name, rules):
    ignored = False
    parts = name.split("/")
    places = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for rule in rules:
        pattern = rule.lstrip("!")
        options = (pattern, pattern.removeprefix("**/"))
        if any(
            fnmatch.fnmatchcase(place, each) for place in (*places, parts[-1]) for each in options
        ):
            ignored = not rule.startswith("!")
    return ignored


@pytest.fixture
def image(tmp_path):
    return tree_of_the_image(tmp_path / "image")


def run(image, *words, **app):
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=image,
        env=variables_of_slices() | {f"APP_{name.upper()}": value for name, value in app.items()},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_image_holds_what_serves_and_no_tool_or_test(image):
    held = {path.relative_to(image).as_posix() for path in image.rglob("*") if path.is_file()}
    assert {
        "service.py",
        "kernel/__init__.pyi",
        "kernel/http/router.py",
        "migrations/env.py",
    } <= held
    tools = ("kernel/dev", "kernel/testing", "kernel/tests", "tests", "features/__main__.py")
    assert [name for name in held if name.startswith(tools) or "test_" in name] == []


def test_without_a_database_it_says_what_to_set(image):
    done = run(image, "uvicorn", "service:app", "--port", "1")
    assert done.returncode == 3
    assert "set APP_DATABASE_URL" in done.stderr
    assert "ModuleNotFoundError" not in done.stderr


def test_the_image_starts_with_limits():
    assert COMMAND[:2] == ["uvicorn", "service:app"]
    assert import_from_string(PROTOCOL) is Protocol
    assert int(OPTIONS["--timeout-keep-alive"]) > 60  # nginx and most balancers
    assert int(OPTIONS["--limit-concurrency"]) > 0


@pytest.mark.slow
async def test_the_image_migrates_operates_and_serves(image, database):
    async with database() as url:
        given = {"env": "prod", "database_url": url, "jwt_secret": SECRET}
        for words in (("alembic", "downgrade", "0006"), ("alembic", "upgrade", "head")):
            done = run(image, *words, **given)
            assert done.returncode == 0, done.stderr
        done = run(image, "features.users", "promote", "nobody@example.com", **given)
        assert (done.returncode, done.stderr) == (1, "there is no user with this e-mail address\n")
        limits = ["--http", PROTOCOL]
        for name in ("--timeout-keep-alive", "--limit-concurrency"):
            limits += [name, OPTIONS[name]]
        async with serve(image, *limits, **given) as service:
            assert await service.status("/readyz") == 200
            refused = await service.client.get("/livez", headers={"X": "a" * 70_000})
            assert (refused.status_code, refused.json()["error"]) == (
                431,
                "request_header_fields_too_large",
            )
            assert [line for line in service.lines() if "--http" in line["message"]] == []
        async with serve(image, **given) as service:
            said = [line for line in service.lines() if "--http" in line["message"]]
            assert [line["level"] for line in said] == ["WARNING"]
