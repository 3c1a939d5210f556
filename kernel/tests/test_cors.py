"""Pages of the origins that APP_CORS_ORIGINS names call the service; those of others do not."""

import httpx
import pytest

from kernel import CurrentUser, Router, Session, build_app
from kernel.tests.test_settings import read

PAGE = "https://kitchen.example"
router = Router(prefix="/peeled_jars", tags=["peeled_jars"])


@router.get("")
async def list_jars() -> list[str]:
    return []


@router.post("")
async def fill_jar(_: CurrentUser, session: Session) -> None:
    pass


@router.get("/crash")
async def crash() -> None:
    raise RuntimeError("on purpose")


def browser_at(page, settings, *origins):
    """A client of an app of its own, since a team's may have middleware for pages already."""
    allowing = settings.model_copy(update={"cors_origins": origins or None})
    app = build_app(allowing, name="Jars", version="1")
    app.include_router(router)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers={"Origin": page})


@pytest.fixture
async def browser(settings):
    async with browser_at(PAGE, settings, PAGE, "http://localhost:5173") as client:
        yield client


async def test_a_page_may_send_what_a_client_needs(browser):
    headers = "authorization, content-type, idempotency-key, if-match, prefer, x-api-key"
    for method in ("POST", "PATCH", "PUT", "DELETE"):
        asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
        answer = await browser.options("/peeled_jars", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert method in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == headers


async def test_a_page_reads_every_answer_and_the_headers_that_a_client_needs(browser):
    statuses = {"/peeled_jars": 200, "/nothing": 404, "/peeled_jars/crash": 500}
    answers = {status: await browser.get(path) for path, status in statuses.items()}
    answers[413] = await browser.post("/peeled_jars", content=b"x" * 2**21)
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "Origin" in answer.headers["vary"]
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"ETag", "Idempotent-Replayed", "Link", "Location", "X-Request-ID"} <= {*exposed}


async def test_a_page_of_another_origin_reads_nothing(settings):
    asked = {"Access-Control-Request-Method": "POST"}
    async with browser_at("https://other.example", settings, PAGE) as client:
        assert (await client.options("/peeled_jars", headers=asked)).status_code == 400
        for answer in (await client.get("/peeled_jars"), await client.get("/nothing")):
            assert "access-control-allow-origin" not in answer.headers


async def test_without_the_setting_no_origin_is_allowed(settings):
    async with browser_at(PAGE, settings) as client:
        answer = await client.get("/peeled_jars")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        (PAGE, (PAGE,)),
        (f" {PAGE}, http://localhost:5173,", (PAGE, "http://localhost:5173")),
        (f'["{PAGE}", "http://[::1]:8080"]', (PAGE, "http://[::1]:8080")),
        ("*", ("*",)),
    ],
)
def test_origins_are_a_list_of_json_or_separated_by_commas(monkeypatch, text, origins):
    monkeypatch.setenv("APP_CORS_ORIGINS", text)
    assert read().cors_origins == origins
