"""The end of a service: told before it comes, and nobody's request is lost in it."""

import asyncio
import json
import signal
import sys
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from kernel.tests.processes import PATIENCE, checkout_in, serve, until

pytestmark = [
    pytest.mark.slow(seconds=15),
    pytest.mark.skipif(sys.platform != "linux", reason="signals"),
]

SECRET = "test" * 8
DRAIN = 1.0
PROTOCOL = ("--http", "kernel.http.server:Protocol")
APP = "kernel.tests.faults.ending:app"
CLOSES = b"connection: close\r\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    with checkout_in(tmp_path_factory.mktemp("drain") / "source") as folder:
        yield folder


@pytest.fixture
async def start(source, database):
    """Starts the service with operations that last."""
    async with database() as url:

        def start(*options, **app):
            settings = {"database_url": url, "jwt_secret": SECRET, **app}
            return serve(source, APP, *options, **settings)

        yield start


OPEN = []


@pytest.fixture(autouse=True)
async def nothing_stays_open():
    yield
    while OPEN:
        OPEN.pop().writer.close()
    await asyncio.sleep(0.1)


class Kept:
    """One connection, by its bytes."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        OPEN.append(self)

    @classmethod
    async def open(cls, service):
        return cls(*await asyncio.open_connection("127.0.0.1", service.port))

    async def send(self, method, path, *lines, body=b""):
        head = [f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]
        self.writer.write("\r\n".join(head).encode() + body)
        await self.writer.drain()

    async def head(self):
        return (await self.reader.readuntil(b"\r\n\r\n")).lower()

    async def rest(self):
        """All that comes until the other side closes."""
        async with asyncio.timeout(20):
            return await self.reader.read()

    async def ask(self, path):
        """The answer's head; its body has 64 KiB at most."""
        await self.send("GET", path)
        head = await self.head()
        await self.reader.read(65536)
        return head


async def begin(service, path, *lines, method="GET", body=b""):
    """A request under way."""
    kept = await Kept.open(service)
    await kept.send(method, path, *lines, body=body)
    return kept


def told(service, *levels):
    return [line for line in service.lines() if line["level"] in levels]


async def test_what_is_under_way_at_the_end_is_answered_and_what_has_no_end_is_ended(start):
    async with start(*PROTOCOL, "--timeout-graceful-shutdown", "10", drain=DRAIN) as service:
        idle, silent = await Kept.open(service), await Kept.open(service)
        assert CLOSES not in await idle.ask("/readyz")
        slow = await begin(service, "/ending/wait/2")
        events = await begin(service, "/ending/events")
        download = await begin(service, "/ending/download")
        json_type = "Content-Type: application/json"
        upload = await begin(
            service, "/ending/uploads", json_type, "Content-Length: 9", method="POST", body=b"{"
        )
        url = f"ws://127.0.0.1:{service.port}/ending/socket"
        async with connect(url, proxy=None) as socket:
            assert await socket.recv() == "open"
            began = time.monotonic()
            service.process.terminate()

            async def is_stopping():
                return await service.status("/readyz") == 503

            await until(is_stopping, 0.7)
            livez = await service.client.get("/livez")
            assert (livez.status_code, livez.headers["connection"]) == (200, "close")
            # Who has kept its connection is told so, and closes it.
            assert CLOSES in await idle.ask("/livez")
            assert await idle.rest() == b""
            await socket.send("still there")
            assert await socket.recv() == "still there"
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1012
        assert time.monotonic() - began > DRAIN
        # Who has connected and sent nothing yet is answered after all.
        await silent.send("GET", "/livez")
        assert CLOSES in await silent.head()
        assert (await slow.rest()).endswith(b"2.0")
        assert b"data: 1" in (ended := await events.rest())
        assert ended.endswith(b"0\r\n\r\n")
        assert (await download.rest()).count(b"part") == 4
        refused = await upload.rest()
        assert refused.startswith(b"HTTP/1.1 408")
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"] == "request_timeout"
        await asyncio.to_thread(service.process.wait, 15)
        assert time.monotonic() - began < DRAIN + 10
        assert told(service, "ERROR", "CRITICAL") == []
        assert not [line for line in service.lines() if line.get("status") == 500]


async def test_what_does_not_end_is_told_so_in_the_form_of_errors(start):
    async with start("--timeout-graceful-shutdown", "1", drain=0.2) as service:
        slow = await begin(service, "/ending/wait/60")
        url = f"ws://127.0.0.1:{service.port}/ending/deaf"
        async with connect(url, proxy=None) as socket:
            service.process.terminate()
            answer = await slow.rest()
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        await asyncio.to_thread(service.process.wait, 15)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"\r\nretry-after: 1\r\n" in answer
        problem = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert (problem["reason"], problem["message"]) == ("stopping", "the service is stopping")
        # uvicorn's own line stays: how many did not end in time.
        said = [line["message"] for line in told(service, "ERROR")]
        assert [text for text in said if not text.startswith("Cancel ")] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
async def test_a_second_signal_ends_the_drain_at_once(start, number):
    async with start("--http", "h11", drain=60) as service:
        service.process.terminate()
        await service.reaches("/readyz", 5, status=503)
        answer = await service.client.get("/livez")
        assert answer.headers["connection"] == "close"
        service.process.send_signal(number)
        await asyncio.to_thread(service.process.wait, 5)


async def test_the_end_of_a_terminal_and_of_development_is_at_once(start):
    async with start(drain=60) as service:
        events = await begin(service, "/ending/events")
        await events.head()
        service.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(service.process.wait, 5)
        assert told(service, "ERROR") == []


async def test_workers_drain_when_their_parent_is_told_to_end(start):
    async with start(*PROTOCOL, "--workers", "2", drain=2 * DRAIN) as service:

        async def are_both_there():
            return service.log.read_text().count("Application startup complete") == 2

        await until(are_both_there, PATIENCE)
        began = time.monotonic()
        service.process.terminate()
        await service.reaches("/readyz", 2 * DRAIN, status=503)
        assert await service.status("/livez") == 200
        await asyncio.to_thread(service.process.wait, 10)
        assert time.monotonic() - began > 2 * DRAIN
        # Each has drained for itself; the parent's own lines are uvicorn's.
        log = service.log.read_text()
        assert log.count('"message":"draining"') == 2
        assert "Traceback" not in log


async def test_the_handlers_of_signals_are_left_alone_where_uvicorn_has_none(settings):
    from kernel.tests.app import create_app  # noqa: PLC0415

    app = create_app(settings)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with app.router.lifespan_context(app):
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
