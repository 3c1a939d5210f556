"""Clients that are generated from the OpenAPI document, compiled strictly, and used."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
from anyio import to_thread

from kernel.settings import ROOT, Settings
from kernel.tests.app import create_walked_app
from kernel.tests.processes import checkout_in, serve
from kernel.tests.test_hints import router

# They are the manual's programs, which use what Julienne ships.
pytestmark = [pytest.mark.house, pytest.mark.slow(seconds=15)]
DOCUMENT = (ROOT / "docs/clients.md").read_text()
TOOLS = Path(sys.executable).parent
NPM_INSTALL = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
MORE = """
import { client } from "./client/client.gen.ts";
import {
  createKey, createToken, exportPeelings, listPeelings, uploadPeeling,
} from "./client/index.ts";

client.setConfig({ baseUrl: "http://localhost:8000" });
const form = { username: "ada@example.com", password: "leek and potato" };
const { data: tokens } = await createToken({ body: form, throwOnError: true });
client.setConfig({ auth: ({ type }) => (type === "http" ? tokens.access_token : undefined) });
const { data: made } = await createKey({ body: { name: "robot" }, throwOnError: true });
client.setConfig({ auth: ({ type }) => (type === "apiKey" ? made.key : undefined) });
const body = { file: new File(["leek"], "leek.txt") };
const { data: peeling } = await uploadPeeling({ body, throwOnError: true });
const { data: text } = await exportPeelings({ throwOnError: true });
const words: string = text;
const { response } = await listPeelings({ throwOnError: true });
const headers = { "If-None-Match": response.headers.get("ETag") ?? "" };
const same = await listPeelings({ headers });
console.log(peeling.title, words, same.response?.status);
"""
PYTHON_MORE = """
from io import BytesIO

from service_client import AuthenticatedClient, Client
from service_client.api.auth import create_token
from service_client.api.keys import create_key
from service_client.api.peelings import export_peelings, list_peelings, upload_peeling
from service_client.models import (
    BodyCreateToken, BodyUploadPeeling, KeyCreate, KeyCreated, PeelingPublic, TokenPublic,
)
from service_client.types import File

URL = "http://localhost:8000"
form = BodyCreateToken(username="bob@example.com", password="leek and potato")
tokens = create_token.sync(client=Client(URL), body=form)
assert isinstance(tokens, TokenPublic)
person = AuthenticatedClient(URL, tokens.access_token)
made = create_key.sync(client=person, body=KeyCreate(name="robot"))
assert isinstance(made, KeyCreated)
client = AuthenticatedClient(URL, made.key, prefix="", auth_header_name="X-API-Key")
body = BodyUploadPeeling(File(BytesIO(b"leek"), "leek.txt"))
peeling = upload_peeling.sync(client=client, body=body)
assert isinstance(peeling, PeelingPublic)
text = export_peelings.sync(client=client)
assert isinstance(text, str)
tag = list_peelings.sync_detailed(client=client).headers["ETag"]
same = list_peelings.sync_detailed(client=client, if_none_match=tag)
print(peeling.title, text, same.status_code.value)
"""


@pytest.fixture
async def service(tmp_path, database):
    with checkout_in(tmp_path / "checkout") as checkout:
        async with (
            database() as url,
            serve(checkout, database_url=url, jwt_secret="clients" * 6) as service,
        ):
            yield service


@pytest.fixture
def folder(tmp_path):
    """A client's, with the document of the service and of whatever else a slice may say."""
    app = create_walked_app(Settings(_env_file=None))
    app.include_router(router)
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "openapi.json").write_text(json.dumps(app.openapi()))
    return folder


async def test_a_typescript_client_compiles_strictly_and_does_what_the_manual_shows(
    service, folder
):
    package, tsconfig = blocks("json")
    (config,), (program,) = blocks("js"), blocks("ts")
    files = {"package.json": package, "openapi-ts.config.mjs": config, "tsconfig.json": tsconfig}
    write(folder, files | {"use.ts": at(service, program), "more.ts": at(service, MORE)})
    for command in (NPM_INSTALL, ("npm", "run", "generate"), ("npm", "run", "check")):
        await run(folder, *command)
    assert await run(folder, "node", "use.ts") == shown(program)
    assert await run(folder, "node", "more.ts") == ["4 bytes peelings 304"]


async def test_a_python_client_compiles_strictly_and_does_what_the_manual_shows(service, folder):
    (command,) = re.findall("^uvx (.+)$", DOCUMENT, re.MULTILINE)
    (config,), (program,) = blocks("yaml"), blocks("python")
    files = {"use.py": at(service, program), "more.py": at(service, PYTHON_MORE)}
    write(folder, files | {"client.yml": config})
    generator, *arguments = command.split()
    await run(folder, generator.split("==")[0], *arguments, "--fail-on-warning")
    checked = ("--strict", "--config-file=", "use.py", "more.py", "service_client")
    await run(folder, "mypy", *checked)
    assert await run(folder, "python", "use.py") == shown(program)
    assert await run(folder, "python", "more.py") == ["4 bytes peelings 304"]


def blocks(language):
    return re.findall(f"^```{language}\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


def at(service, program):
    return program.replace("localhost:8000", f"127.0.0.1:{service.port}")


def write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)


def shown(program):
    """What the program prints, by its comments: behind a line that prints, or below."""
    lines = r"^(?:(?:console\.log|print)\(.+\);? +(?://|#) |(?://|#) (?=[1-5]\d\d ))(.+)$"
    return re.findall(lines, program, re.MULTILINE)


async def run(folder, program, *arguments):
    """Run one of the tools that the group `clients` installs, and give the lines that it prints."""
    assert which(program, path=TOOLS), f"no {program}: uv sync --group clients"

    def run():
        path = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
        kept = {"npm_config_cache": str(folder / ".npm"), "PYTHONPATH": str(folder)}
        return subprocess.run(
            [TOOLS / program, *arguments],
            cwd=folder,
            env=os.environ | kept | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    done = await to_thread.run_sync(run)
    assert done.returncode == 0, f"{program} {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout.splitlines()
