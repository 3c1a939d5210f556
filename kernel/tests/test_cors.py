"""Pages of the origins that APP_CORS_ORIGINS names call the service; those of others do not."""

import pytest
from fastapi import APIRouter

from kernel.tests.app import PATHS
from kernel.tests.test_settings import read

PAGE = "https://kitchen.example"
router = APIRouter()


@router.get("/crash")
async def crash() -> None:
    raise RuntimeError("on purpose")


@pytest.fixture
async def browser(mount):
    async with mount(router, cors_origins=(PAGE, "http://localhost:5173")) as client:
        client.headers["Origin"] = PAGE
        yield client


async def test_a_page_may_send_what_a_client_needs(browser):
    headers = "authorization, content-type, idempotency-key, if-match, prefer, x-api-key"
    for method in ("POST", "PATCH", "PUT", "DELETE"):
        asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
        answer = await browser.options(PATHS["create_user"], headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert method in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == headers


async def test_a_page_reads_every_answer_and_the_headers_that_a_client_needs(browser):
    statuses = {
        "/livez": 200,
        "/nothing": 404,
        PATHS["get_me"]: 401,
        "/crash": 500,
        "/livez?" + "x" * 10: 200,
    }
    answers = {path: await browser.get(path) for path in statuses}
    answers["too large"] = await browser.post(PATHS["create_user"], content=b"x" * 2**21)
    for path, answer in answers.items():
        assert answer.status_code == statuses.get(path, 413)
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "Origin" in answer.headers["vary"]
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"ETag", "Idempotent-Replayed", "Link", "Location", "X-Request-ID"} <= {*exposed}


async def test_another_page_reads_nothing(browser):
    browser.headers["Origin"] = "https://other.example"
    asked = {"Access-Control-Request-Method": "POST"}
    assert (await browser.options(PATHS["create_user"], headers=asked)).status_code == 400
    for answer in (await browser.get("/livez"), await browser.get("/nothing")):
        assert "access-control-allow-origin" not in answer.headers


async def test_without_the_setting_no_page_may(client):
    answer = await client.get("/livez", headers={"Origin": PAGE})
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
