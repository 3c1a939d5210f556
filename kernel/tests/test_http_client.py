"""The service's client for HTTP asks whom it is told to ask, and believes no environment."""

import asyncio

import httpx
import pytest
from fastapi import APIRouter

from kernel import CurrentUser, Http, Router, Session
from kernel.data.resources import resources_of
from kernel.http import exceptions
from kernel.reminders import Reminders


@pytest.fixture
async def upstream():
    """A server's address, and the heads of requests that it had."""
    heads = []

    async def answer(reader, writer):
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


async def test_it_takes_neither_proxy_nor_password_from_the_environment(
    mount, monkeypatch, tmp_path, upstream
):
    url, heads = upstream
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login canary password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with mount(APIRouter()) as client:
        http = resources_of(client.app).get(httpx.AsyncClient)
        assert (await http.get(url)).status_code == 204
    assert "authorization" not in heads[0].lower()


async def test_a_process_reads_its_certificates_once(mount, monkeypatch):
    async with mount(APIRouter()):
        pass

    def fail():
        raise AssertionError

    monkeypatch.setattr(httpx, "create_ssl_context", fail)
    async with mount(APIRouter()) as client:
        assert (await client.get("/livez")).status_code == 200


# What goes wrong elsewhere.

router = Router(prefix="/peeled_rates", tags=["peeled_rates"])
RATES = "https://rates.example/"
SECRET = "canary"  # by its name, since a traceback shows the code


@router.get("")
async def get_rates(http: Http) -> dict[str, float]:
    return (await http.get(f"{RATES}?secret={SECRET}")).raise_for_status().json()


@router.post("")
async def keep_rates(http: Http, _: CurrentUser, session: Session) -> dict[str, float]:
    return (await http.get(RATES)).raise_for_status().json()


@router.get("/mistaken")
async def ask_mistakenly(http: Http) -> None:
    await http.get("rates.example")


def fail(kind):
    def answer(request):
        raise kind(SECRET, request=request)

    return answer


FAILURES = {
    "refused": (fail(httpx.ConnectError), 502),
    "cut off": (fail(httpx.RemoteProtocolError), 502),
    "encoded wrongly": (fail(httpx.DecodingError), 502),
    "turning in circles": (fail(httpx.TooManyRedirects), 502),
    "slow to connect": (fail(httpx.ConnectTimeout), 504),
    "slow to answer": (fail(httpx.ReadTimeout), 504),
    "unwilling": (lambda request: httpx.Response(403, request=request), 502),
    "broken": (lambda request: httpx.Response(500, request=request), 502),
}


@pytest.mark.parametrize(("upstream_does", "status"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_another_service_fails_to_do_is_no_mistake_of_ours(
    mount, alice, fake_http, log, monkeypatch, upstream_does, status, method
):
    monkeypatch.setattr(exceptions, "_reminders", Reminders())  # each is told anew
    fake_http[RATES] = upstream_does
    async with mount(router) as client:
        answer = await client.request(method, "/peeled_rates", headers=alice.headers)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert "retry-after" not in answer.headers
    [line] = log.lines("WARNING", "ERROR")
    assert (line["level"], line["host"]) == ("WARNING", "rates.example")
    assert SECRET not in str(line) + answer.text


async def test_a_url_that_is_none_is_a_mistake_of_ours(mount, log):
    async with mount(router) as client:
        assert (await client.get("/peeled_rates/mistaken")).status_code == 500
    assert len(log.lines("ERROR")) == 1


async def test_the_document_tells_that_another_service_may_fail(mount):
    async with mount(router) as client:
        document = client.app.openapi()["paths"]
    assert {"502", "504"} <= document["/peeled_rates"]["get"]["responses"].keys()
    assert not {"502", "504"} & document["/readyz"]["get"]["responses"].keys()
