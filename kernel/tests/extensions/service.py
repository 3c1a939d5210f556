"""What a team changes about the service as a whole: its name, its settings, who may read it."""

from kernel.tests.extensions.copies import Copy

NAME = """\
import jwt

RUNNING = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"


async def test_the_service_goes_by_its_name(client, alice, sql):
    document = (await client.get("/openapi.json")).json()
    assert document["info"]["title"] == "Orchard Desk"
    token = alice.headers["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["iss"], claims["aud"]) == ("orchard-desk", "orchard-desk")
    await alice.get("/users/me")
    names = {name for (name,) in await sql.fetch(RUNNING)}
    assert any(name.startswith("orchard-desk reader ") for name in names)
    assert not [name for name in names if "julienne" in name]
    key = (await alice.post("/keys", json={"name": "Robot"})).json()
    assert key["prefix"].startswith("orc_")


async def test_no_answer_has_another_name(client, alice):
    answers = [
        await client.get("/openapi.json"),
        await client.get("/docs"),
        await client.get("/livez"),
        await client.get("/nothing"),
        await client.get("/users/me"),
        await client.post("/users", json={}),
        await alice.get("/users/me"),
        await alice.get("/users"),
        await alice.post("/keys", json={"name": "Robot"}),
        await alice.get("/keys"),
    ]
    for answer in answers:
        told = f"{answer.headers} {answer.text}".lower()
        assert "julienne" not in told
        assert "jul_" not in told
"""


def rename(copy: Copy) -> None:
    """Give the service another name."""
    copy.edit("service.py", 'name="Julienne"', 'name="Orchard Desk"')
    copy.write("tests/test_name.py", NAME)


MAIL = {
    "settings.py": '''\
from typing import Annotated

from pydantic import Field, PositiveInt

from kernel import SliceSettings


class MailSettings(SliceSettings, env_prefix="MAIL_"):
    """The server that takes our mail."""

    host: str
    port: Annotated[PositiveInt, Field(le=65_535)] = 25
''',
    "models.py": """\
from kernel import Dto


class MailServerPublic(Dto):
    host: str
    port: int
""",
    "router.py": """\
from features.mail.models import MailServerPublic
from features.mail.settings import MailSettings
from kernel import Admin, Router, Service

router = Router(prefix="/mail", tags=["mail"])


@router.get("/server")
async def get_mail_server(_: Admin, service: Service) -> MailServerPublic:
    mail = service.settings.of(MailSettings)
    return MailServerPublic(host=mail.host, port=mail.port)
""",
    "test_mail.py": """\
from features.mail.settings import MailSettings
from kernel import load_settings

RULES = {"get_mail_server": "admin"}


async def test_the_settings_of_a_slice_are_not_the_developers(admin):
    answer = await admin.get("/mail/server")
    assert (answer.status_code, answer.json()) == (200, {"host": "localhost", "port": 25})


async def test_a_test_can_set_the_settings_of_a_slice(admin, serve):
    async with serve(MailSettings(host="mail.example"), env="prod") as client:
        answer = await client.get("/mail/server", headers=admin.headers)
    assert answer.json() == {"host": "mail.example", "port": 25}


def test_the_environment_sets_the_settings_of_a_slice(monkeypatch):
    monkeypatch.setenv("MAIL_PORT", "2525")
    assert load_settings().of(MailSettings).port == 2525
""",
}


def add_settings(copy: Copy) -> None:
    """Add a slice with settings of its own, one of which has no default."""
    copy.add_slice("mail", MAIL)
    copy.write(".env", "MAIL_HOST=mail.example\nMAIL_PORT=587\n")
    plugins = "pytest_plugins ="
    copy.edit("conftest.py", plugins, f'os.environ["MAIL_HOST"] = "localhost"\n\n{plugins}')


CORS = """\
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["https://orchard.example"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["ETag"],
    )
"""
BROWSERS = """\
from fastapi import APIRouter

ORIGIN = {"Origin": "https://orchard.example"}
ALLOWED = {
    "access-control-allow-origin": "https://orchard.example",
    "access-control-expose-headers": "ETag",
}
router = APIRouter()


@router.get("/crash")
async def crash() -> None:
    raise RuntimeError("on purpose")


async def test_a_browser_may_ask_before_it_writes(client):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "If-Match"}
    answer = await client.options("/users", headers=ORIGIN | asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN["Origin"]
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"].lower() == "if-match"


async def test_a_browser_may_not_ask_from_elsewhere(client):
    asked = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
    answer = await client.options("/users", headers=asked)
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


async def test_a_browser_reads_every_answer(client, mount):
    async with mount(router) as other:
        answers = {
            200: await client.get("/livez", headers=ORIGIN),
            404: await client.get("/nothing", headers=ORIGIN),
            422: await client.post("/users", json={}, headers=ORIGIN),
            500: await other.get("/crash", headers=ORIGIN),
        }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers.items() >= ALLOWED.items()
        assert answer.headers["x-request-id"]
"""


def add_cors(copy: Copy) -> None:
    """Let the pages of another origin call the service."""
    imported = "from fastapi import FastAPI\n"
    added = f"{imported}from fastapi.middleware.cors import CORSMiddleware\n"
    copy.edit("service.py", imported, added)
    copy.edit("service.py", "    app.include_router(health", f"{CORS}    app.include_router(health")
    copy.write("tests/test_browsers.py", BROWSERS)


README = """\
# Orchard Desk

Who has picked which apples, and who pays for them.

    uv run uvicorn service:app

Tests: `uv run pytest`. Releases: merge to `main`.

Ask in #orchard.
"""


def write_readme(copy: Copy) -> None:
    """Put the team's own README in the place of Julienne's."""
    copy.write("README.md", README)


def replace_items(copy: Copy) -> None:
    """Take the example out, and put a slice of the team's own in, by the commands."""
    copy.works("features", "new", "plums", "title:str", "weight:decimal?", "owner")
    copy.works("features", "remove", "items")
    copy.tests.append("features/plums/test_plums.py")
