"""What the manual shows is what happens, and the page of the API shows nothing else."""

import hashlib
import re
import sys
from base64 import b64encode
from types import ModuleType

import httpx
import pytest
from fastapi import APIRouter

from kernel.settings import ROOT

pytestmark = pytest.mark.house
MANUAL = (ROOT / "docs/sessions.md").read_text()


@pytest.fixture
def example():
    """The manual's example, as a module."""
    [code] = re.findall(r"^```python\n(.*?)^```$", MANUAL, re.DOTALL | re.MULTILINE)
    module = ModuleType("example_of_the_manual")
    sys.modules[module.__name__] = module  # where FastAPI looks for the names in annotations
    exec(compile(code, "docs/sessions.md", "exec"), module.__dict__)  # noqa: S102  # it is ours
    yield module
    del sys.modules[module.__name__]


async def test_the_examples_of_sessions_work(mount, alice, sql, example):
    async with mount(example.router) as client:
        client.headers.update(alice.headers)
        assert (await client.post("/examples/payments")).json() == {"count": 1}
        assert (await client.post("/examples/welcome")).json() == {"count": 1}
        assert example.mails == ["Alice"]
        assert (await client.post("/examples/background")).status_code == 202
        assert example.mails == ["Alice", "1 users"]
        assert (await client.post("/examples/import")).json() == {"count": 101}
        lines = (await client.get("/examples/export")).text.splitlines()
        assert (len(lines), lines[0]) == (101, f"{alice.user_id},Alice")
        report = (await client.get("/examples/report")).json()
        assert (report["count"], report["names"][:2]) == (101, ["Alice", "Copied"])
    assert await sql.fetchval("SELECT count(*) FROM users") == 101


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_the_docs_find_their_parts_behind_a_prefix(app, prefix):
    """As with `--root-path /api`, behind a proxy that strips the prefix."""
    transport = httpx.ASGITransport(app, root_path=prefix)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        page = (await client.get(f"{prefix}/docs")).text
        links = re.findall(r"""["'](/[^"'<>]*)["']""", page)
        assert f"{prefix}/openapi.json" in links
        for link in links:
            assert (await client.get(link)).status_code == 200, link


@pytest.mark.parametrize("path", ["/docs", "/docs/oauth2-redirect"])
@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_a_page_of_the_docs_runs_its_own_scripts_in_no_frame(app, path, prefix):
    transport = httpx.ASGITransport(app, root_path=prefix)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get(f"{prefix}{path}")
    policy = dict(
        directive.split(" ", 1)
        for directive in answer.headers["content-security-policy"].split("; ")
    )
    inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digests = [b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    assert policy["script-src"].split() == ["'self'", *(f"'sha256-{each}'" for each in digests)]
    assert len(inline) == 1
    assert re.search(r"""\bon\w+=["']|javascript:""", answer.text) is None
    assert {policy[name] for name in ("default-src", "frame-ancestors", "base-uri")} == {"'none'"}
    assert policy["connect-src"] == "'self'"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_the_root_leads_to_the_docs_in_development(app, prefix):
    transport = httpx.ASGITransport(app, root_path=prefix)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get(f"{prefix}/")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{prefix}/docs")


async def test_what_a_team_serves_at_the_root_goes_before_the_docs(mount):
    router = APIRouter()

    @router.get("/")
    async def home() -> str:
        return "home"

    async with mount(router) as client:
        assert (await client.get("/")).json() == "home"


async def test_the_root_leads_nowhere_in_production(mount):
    async with mount(APIRouter(), env="prod") as client:
        assert (await client.get("/")).status_code == 404
