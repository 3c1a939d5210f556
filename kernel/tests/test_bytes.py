"""Bytes on the wire that no client library sends."""

import asyncio
import re
from contextlib import suppress

import pytest

from kernel.testing.asking import all_of
from kernel.testing.hostile import REQUESTS
from kernel.tests.processes import checkout_in, serve


@pytest.fixture(scope="module")
async def service(tmp_path_factory, database):
    with checkout_in(tmp_path_factory.mktemp("bytes") / "checkout") as checkout:
        async with (
            database() as url,
            serve(checkout, database_url=url, jwt_secret="test" * 8) as service,
        ):
            yield service


@pytest.mark.slow
async def test_requests_that_no_client_library_sends_are_refused(service):
    """Each gets one answer or none, and is forgotten.

    What uvicorn itself does not limit is the proxy's to limit: the headers of a request together
    (it reads 20 MB of them) and the time that they take to arrive.
    """
    before = service.memory("VmRSS")
    got = await all_of([exchange(service.port, request) for request, _ in REQUESTS.values()])
    allowed = dict(zip(REQUESTS, (statuses for _, statuses in REQUESTS.values()), strict=True))
    answered = dict(zip(REQUESTS, got, strict=True))
    assert {name: each for name, each in answered.items() if not set(each) <= allowed[name]} == {}
    assert [name for name, each in answered.items() if len(each) > 1] == []
    assert await service.status("/livez") == 200
    assert service.process.poll() is None
    assert service.memory("VmHWM") - before < 20 * 2**20
    assert [line for line in service.lines() if line["level"] == "ERROR"] == []


async def test_pipelined_requests_are_answered_in_order(service):
    asked = [f"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: n{n}\r\n\r\n" for n in range(3)]
    connection = await asyncio.open_connection("127.0.0.1", service.port)
    connection[1].write("".join(asked).encode())
    received = await everything(connection[0])
    connection[1].close()
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200"] * 3
    assert re.findall(rb"x-request-id: (\w+)", received) == [b"n0", b"n1", b"n2"]


async def exchange(port, request):
    """The statuses of what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError):
        writer.write(request)
        await writer.drain()
    received = await everything(reader)
    writer.close()
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", received)]


async def everything(reader):
    """What comes, until the service closes or has been silent for a while."""
    received = b""
    with suppress(TimeoutError, ConnectionError):
        while data := await asyncio.wait_for(reader.read(65536), 0.5):
            received += data
    return received
