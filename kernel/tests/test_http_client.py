"""The service's client for HTTP asks whom it is told to ask, and believes no environment."""

import asyncio

import httpx
import pytest
from fastapi import APIRouter

from kernel.data.resources import resources_of


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
