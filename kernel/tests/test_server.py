"""The server's protocol, through sockets: what it takes, and how long it waits."""

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from uvicorn import Config
from uvicorn.server import ServerState
from websockets.asyncio.client import connect

from kernel.http.server import Protocol
from kernel.settings import ROOT
from kernel.tests.latencies import assert_hardly_slower
from kernel.tests.processes import PATIENCE, Service, end, until
from kernel.tests.serving import LARGE, LATE_SECONDS, Quick, app

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.slow,
]

QUICK = "kernel.tests.serving:Quick"
REAL = "kernel.http.server:Protocol"
HOST = b"Host: x\r\n"
CLOSE = HOST + b"Connection: close\r\n\r\n"
GET = b"GET / HTTP/1.1\r\n"
POST = b"POST /upload HTTP/1.1\r\n" + HOST
UPLOAD = POST + b"Content-Length: 20000\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# How much later than its limit a connection may be closed, on a busy machine.
LEEWAY = 1.5
KEEP_ALIVE = 2  # longer than what else is waited for
QUIET = 0.03  # seconds


@asynccontextmanager
async def serving(folder, protocol, *options):
    """The tests' own app, in a process of its own."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "uvicorn", "kernel.tests.serving:app", "--http", protocol]
    command += ["--port", "0", "--lifespan", "off", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220  # which returns at once
            command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
    try:
        await until(lambda: is_running(log), PATIENCE)
        port = int(log.read_text().split("http://127.0.0.1:")[1].split()[0])
        yield Service(process, None, port, log)
    finally:
        end(process)


async def is_running(log):
    return "Uvicorn running" in log.read_text()


@pytest.fixture(scope="module")
async def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    async with serving(folder, QUICK, "--timeout-keep-alive", str(KEEP_ALIVE)) as service:
        yield service
        assert "Traceback" not in service.log.read_text()


class Client:
    """One connection, by its bytes."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.opened = time.monotonic()
        self.port = writer.get_extra_info("sockname")[1]

    async def send(self, *pieces, pause=0.0):
        """Send one after the other, for as long as the other side takes them."""
        with suppress(ConnectionError):
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
                await asyncio.sleep(pause)

    async def answer(self):
        """The next answer: its status, its headers and its body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body

    async def closed(self):
        """Wait for the end; what came until then, and when that was, since the opening."""
        parts = []
        with suppress(ConnectionError):
            while part := await self.reader.read(65536):
                parts.append(part)
        return b"".join(parts), time.monotonic() - self.opened


@asynccontextmanager
async def connected(server, limit=65536):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=limit)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def exchanged(server, *pieces):
    """What comes back for these bytes until the connection is closed."""
    async with connected(server) as client:
        sending = asyncio.create_task(client.send(*pieces))
        received, _ = await asyncio.wait_for(client.closed(), PATIENCE)
        sending.cancel()
        return received


def problems(received):
    """The answers' statuses; what is no success has to be a problem, with the id of a request."""
    statuses = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        size = int(headers["content-length"])
        statuses.append(int(status.split()[1]))
        if statuses[-1] >= 300:
            assert_problem(statuses[-1], headers, json.loads(rest[:size]))
        received = rest[size:]
    return statuses


def assert_problem(status, headers, problem):
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert problem["status"] == status
    assert problem["request_id"] == headers["x-request-id"] != ""
    assert {"date", "server"} <= headers.keys()


def cpu_seconds(process):
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# The head.


@pytest.mark.parametrize(
    ("status", "pieces"),
    [
        (431, [GET + HOST + b"X: ", *[b"a" * 1_000_000] * 120]),
        (431, [GET + HOST, *[b"a: b\r\n" * 10_000] * 20]),
        (431, [GET + HOST, *[b"a" * 1_000_000] * 5]),
        (414, [b"GET /", *[b"a" * 1_000_000] * 5]),
        (431, [GET + HOST + b"a: b\r\n" * 100 + b"\r\n"]),
        (431, [b"\r\n" * 100_000]),
        (431, [CHUNKED + b"1\r\na\r\n0\r\nX: ", *[b"a" * 1_000_000] * 5]),
        (431, [CHUNKED + b"1;x=", *[b"a" * 1_000_000] * 5]),
    ],
    ids=["a header", "200,000 headers", "a name", "target", "101", "blanks", "trailer", "chunk"],
)
async def test_what_is_too_large_is_refused_at_once_and_costs_nothing(server, status, pieces):
    await exchanged(server, GET + CLOSE)
    memory, cpu = server.memory("VmRSS"), cpu_seconds(server.process)
    assert problems(await exchanged(server, *pieces)) == [status]
    assert server.memory("VmHWM") - memory < 20 * 1024 * 1024
    assert cpu_seconds(server.process) - cpu < 1


@pytest.mark.parametrize(
    "head",
    [
        GET + HOST + b"X: " + b"a" * 65_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        GET + HOST + b"a: b\r\n" * 99 + b"\r\n",
    ],
    ids=["a header", "target", "100 headers"],
)
async def test_what_is_within_the_limits_is_served(server, head):
    async with connected(server) as client:
        for pieces in ([head], [head[n : n + 1000] for n in range(0, len(head), 1000)]):
            await client.send(*pieces)
            assert (await client.answer())[0] == 200


async def test_the_limit_is_of_each_head_and_not_of_a_connection(server):
    async with connected(server) as client:
        for _ in range(5):
            for head in (GET + HOST, CHUNKED + b"0\r\n"):
                await client.send(head + b"X: " + b"a" * 60_000 + b"\r\n\r\n")
                assert (await client.answer())[0] == 200


async def test_a_refused_client_may_send_for_a_while_and_is_then_closed(server):
    async with connected(server) as client:
        for _ in range(5):
            client.writer.write(b"a" * 1_000_000)
            await client.writer.drain()
        assert problems((await client.closed())[0]) == [400]
        assert is_held(server, client)

        async def is_closed():
            return not is_held(server, client)

        await until(is_closed, Quick.linger_seconds + LEEWAY)


async def test_what_comes_after_a_refusal_is_not_looked_at(server):
    async def go_on(sent, rest):
        async with connected(server) as client:
            await client.send(sent)
            assert (await client.answer())[0] == 408
            await client.send(rest, pause=LATE_SECONDS)
            return (await client.closed())[0]

    late = UPLOAD.replace(b"/upload", b"/late/early")  # which is answered after the refusal
    sent = ((GET + HOST, b"\r\n"), (UPLOAD, b"a" * 20_000), (late, b""))
    assert await asyncio.gather(*(go_on(*pieces) for pieces in sent)) == [b""] * 3


# What is slow.


async def waited_for(server, *pieces, pause=0.0):
    """The statuses that a slow client gets, and for how long it was waited."""
    async with connected(server) as client:
        sending = asyncio.create_task(client.send(*pieces, pause=pause))
        received, seconds = await asyncio.wait_for(client.closed(), PATIENCE)
        sending.cancel()
        return problems(received), seconds


async def test_who_sends_too_slowly_is_told_so_and_closed(server):
    head = GET + HOST + b"X: "
    slow = {
        "silent": ([], Quick.grace_seconds, []),
        "half a head": ([head], Quick.grace_seconds, [408]),
        "a head byte by byte": ([head, *[b"a"] * 200], Quick.grace_seconds, [408]),
        "blank lines": ([b"\r\n"] * 200, Quick.grace_seconds, []),
        "half a second head": (
            [GET + HOST + b"\r\n" + head],
            Quick.grace_seconds,
            [200, 408],
        ),
        "a body byte by byte": ([UPLOAD, *[b"a"] * 200], Quick.grace_seconds, [408]),
        "chunks": ([CHUNKED, *[b"1\r\na\r\n"] * 200], Quick.grace_seconds, [408]),
        "a body that ends in the middle": ([UPLOAD + b"a" * 19_999], Quick.stall_seconds, [408]),
        "a trailer": ([CHUNKED + b"0\r\n", *[b"a"] * 200], Quick.grace_seconds, [408]),
        "a body that nobody reads": (
            [UPLOAD.replace(b"/upload", b"/early")],
            Quick.grace_seconds,
            [200],
        ),
    }
    waits = [waited_for(server, *pieces, pause=0.05) for pieces, _, _ in slow.values()]
    for (name, (_, limit, statuses)), (found, seconds) in zip(
        slow.items(), await asyncio.gather(*waits), strict=True
    ):
        assert found == statuses, name
        assert limit * 0.9 <= seconds <= limit + LEEWAY, name


async def test_who_is_slow_but_goes_on_is_served(server):
    async def upload(head, *pieces, pause=0.1):
        async with connected(server) as client:
            await client.send(head)
            await client.send(*pieces, pause=pause)
            return (await client.answer())[0]

    body = [b"a" * 2000] * 10  # 20 kB a second
    chunks = [b"7d0\r\n" + piece + b"\r\n" for piece in body]
    large = b"POST /late HTTP/1.1\r\n" + HOST + b"Content-Length: 5000000\r\n\r\n"
    statuses = await asyncio.gather(
        upload(UPLOAD, *body),
        upload(CHUNKED, *chunks, b"0\r\n\r\n"),
        # What the client cannot send because the service does not read is not held against it.
        upload(large, *[b"a" * 500_000] * 10, pause=0),
    )
    assert statuses == [200] * 3


async def test_a_body_that_is_announced_is_waited_for_until_it_is_asked_for(server):
    head = UPLOAD.replace(b"/upload", b"/late").replace(HOST, HOST + b"Expect: 100-continue\r\n")
    async with connected(server) as client:
        await client.send(head)
        assert (await client.answer())[0] == 100
        assert time.monotonic() - client.opened > Quick.grace_seconds
        await client.send(b"a" * 20_000)
        assert (await client.answer())[0] == 200
        await client.send(head)
        assert (await client.answer())[0] == 100
        assert problems((await client.closed())[0]) == [408]


async def test_a_connection_without_a_request_is_kept_for_as_long_as_uvicorn_is_told(server):
    async def idle(*pieces):
        async with connected(server) as client:
            sending = asyncio.create_task(client.send(*pieces, pause=0.1))
            assert (await client.answer())[0] == 200
            seconds = (await asyncio.wait_for(client.closed(), PATIENCE))[1]
            sending.cancel()
            return seconds

    early = b"POST /early HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n"
    # uvicorn itself forgets a connection whose request ends after its answer.
    for seconds in await asyncio.gather(
        idle(GET + HOST + b"\r\n"), idle(early, b"aa"), idle(GET + HOST + b"\r\n", *[b"\r\n"] * 9)
    ):
        assert KEEP_ALIVE * 0.9 <= seconds <= KEEP_ALIVE + LEEWAY


async def test_900_requests_are_served_on_one_connection(server):
    async with connected(server) as client:
        for _ in range(900):
            await client.send(GET + HOST + b"\r\n")
            assert (await client.answer())[0] == 200


async def test_who_does_not_read_its_answer_is_closed(server):
    large = b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n"
    async with connected(server, limit=1) as one, connected(server, limit=1) as pipelined:
        await one.send(large)
        await pipelined.send(large * 3)

        async def are_held(answer=True):
            return {is_held(server, one), is_held(server, pipelined)} == {answer}

        await until(are_held, PATIENCE)
        await until(partial(are_held, answer=False), Quick.grace_seconds + LEEWAY)
        assert time.monotonic() - pipelined.opened > Quick.grace_seconds


def is_held(server, client):
    """Whether the service has the connection open: the kernel may go on to send for a while."""
    ports = [f":{port:04X}" for port in (server.port, client.port)]
    for line in Path("/proc/net/tcp").read_text().splitlines():
        _, here, there, *_, inode = line.split()[:10]
        if here.endswith(ports[0]) and there.endswith(ports[1]) and inode != "0":
            return True
    return False


async def test_who_reads_its_answer_slowly_gets_it(server):
    async with connected(server, limit=1000) as client:
        await client.send(b"GET /large HTTP/1.1\r\n" + CLOSE)
        size = 0
        while part := await client.reader.read(LARGE):
            size += len(part)
            await asyncio.sleep(0.02)
        assert size > LARGE
        assert time.monotonic() - client.opened > Quick.grace_seconds + 2 * Quick.check_seconds


# What is no HTTP, and what comes ahead of its turn.

MALFORMED = {
    "chunked and a length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    "a length and chunked": POST
    + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\naa",
    "two equal lengths": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "a list of lengths": POST + b"Content-Length: 1, 1\r\n\r\na",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a hexadecimal length": POST + b"Content-Length: 0x1\r\n\r\na",
    "a length of 2**64": POST + b"Content-Length: 18446744073709551616\r\n\r\na",
    "chunked, but not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "an unknown encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk that is no number": CHUNKED + b"g\r\na\r\n0\r\n\r\n",
    "a chunk of 2**64": CHUNKED + b"10000000000000000\r\na\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"1\r\naaa\r\n0\r\n\r\n",
    "LF in a chunk": CHUNKED + b"1\na\n0\n\n",
    "LF alone": b"GET / HTTP/1.1\nHost: x\n\n",
    "CR alone": GET + b"Host: x\rX: y\r\n\r\n",
    "a space before the colon": GET + b"Host : x\r\n\r\n",
    "a folded header": GET + HOST + b" folded\r\n\r\n",
    "no colon": GET + b"Host\r\n\r\n",
    "NUL in a value": GET + HOST + b"X: a\0b\r\n\r\n",
    "NUL in a name": GET + HOST + b"X\0: a\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no version": b"GET /\r\n\r\n",
    "version 2.0": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "version 9.9": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "a method of lower case": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target without a slash": b"GET @x HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "TLS": bytes.fromhex("16030100fa010000f60303") + bytes(64),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_http_is_refused_in_the_form_of_errors(server, request_):
    for pieces in ([request_], [request_[n : n + 1] for n in range(len(request_))]):
        assert problems(await exchanged(server, *pieces)) == [400]


async def test_pipelined_requests_are_answered_in_their_order(server):
    paths = [b"/late", b"/a", b"/b"]
    ahead = b"".join(b"GET %s HTTP/1.1\r\n%s\r\n" % (path, HOST) for path in paths)
    async with connected(server) as client:
        await client.send(ahead + POST + b"Content-Length: 3\r\n\r\nabc")
        answers = [json.loads((await client.answer())[2]) for _ in range(4)]
    assert [answer["path"] for answer in answers] == ["/late", "/a", "/b", "/upload"]
    assert answers[3]["size"] == 3


async def test_a_head_that_is_begun_early_has_its_time_after_the_answer_before_it(server):
    async with connected(server) as client:
        await client.send(b"GET /late HTTP/1.1\r\n" + HOST + b"\r\n" + GET + b"Host")
        assert (await client.answer())[0] == 200
        assert time.monotonic() - client.opened > Quick.grace_seconds
        await client.send(b": x\r\n\r\n")
        assert (await client.answer())[0] == 200


async def test_a_client_that_leaves_is_told_to_all_of_its_requests(server):
    late = b"GET /late HTTP/1.1\r\n" + HOST + b"\r\n"
    for sent in (late, late * 2, GET + HOST + b"\r\n" + late * 3):
        async with connected(server) as client:
            await client.send(sent, pause=0.1)
    await asyncio.sleep(2 * LATE_SECONDS)
    assert "Traceback" not in server.log.read_text()


async def test_a_request_whose_client_leaves_is_told_although_others_wait_for_it(server):
    async def watched():
        async with connected(server) as client:
            await client.send(GET + HOST + b"\r\n")
            return json.loads((await client.answer())[2])["watched"]

    async def is_watched(number):
        return await watched() == number

    for waiting in (0, 1, 2):
        async with connected(server) as client:
            watch = b"GET /watch HTTP/1.1\r\n" + HOST + b"\r\n"
            await client.send(watch + (GET + HOST + b"\r\n") * waiting)
            await until(partial(is_watched, 1), PATIENCE)
        await until(partial(is_watched, 0), PATIENCE)


async def test_no_more_than_100_requests_wait_for_the_answers_before_them(server):
    many = b"GET /late HTTP/1.1\r\n" + HOST + b"\r\n" + (GET + HOST + b"\r\n") * 9000
    memory = server.memory("VmRSS")
    assert problems(await exchanged(server, many)) == [200] * 102 + [429]
    assert server.memory("VmHWM") - memory < 4 * 1024 * 1024


async def test_a_refusal_waits_for_the_answers_before_it(server):
    late = b"GET /late HTTP/1.1\r\n" + HOST + b"\r\n"
    bad = {
        "a head": (b"nonsense\r\n\r\n", 400),
        "a large head": (GET + b"X: " + b"a" * 400_000, 431),
        "many fields": (GET + b"a: b\r\n" * 101 + b"\r\n", 431),
        "a body": (CHUNKED + b"g", 400),
        "a trailer": (CHUNKED + b"0\r\nX: " + b"a" * 400_000, 431),
        "half a head": (GET + b"X: ", 408),
        "half a body": (UPLOAD, 408),
    }
    *received, two = await asyncio.gather(
        *(exchanged(server, late + sent) for sent, _ in bad.values()),
        exchanged(server, late + late + CHUNKED + b"g"),
    )
    statuses = {name: problems(answers) for name, answers in zip(bad, received, strict=True)}
    assert statuses == {name: [200, status] for name, (_, status) in bad.items()}
    assert problems(two) == [200, 200, 400]


async def test_an_answer_that_has_begun_is_cut_off_and_nothing_is_put_into_it(server):
    head = CHUNKED.replace(b"/upload", b"/begun")
    for pieces in ([head, b"1\r\na\r\ng"], [head]):
        async with connected(server) as client:
            await client.send(*pieces, pause=0.05)
            received, _ = await asyncio.wait_for(client.closed(), PATIENCE)
        assert received.endswith(b"5\r\nbegun\r\n")
        assert received.count(b"HTTP/1.1") == 1


async def test_a_trailer_is_no_header(server):
    sent = CHUNKED + b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\nX-Forwarded-For: ::1\r\n\r\n"
    async with connected(server) as client:
        await client.send(sent)
        told = json.loads((await client.answer())[2])
    assert told["headers"] == ["host", "transfer-encoding"]


async def test_a_refusal_has_the_id_that_the_client_gave(server):
    head = UPLOAD.replace(HOST, HOST + b"X-Request-ID: abc\r\n")
    async with connected(server) as client:
        await client.send(head)
        status, headers, body = await client.answer()
    assert (status, headers["x-request-id"]) == (408, "abc")
    assert json.loads(body)["message"] == "the body of the request took too long"


async def test_an_upgrade_to_what_is_not_spoken_is_a_request_like_others(server):
    upgrade = GET + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    async with connected(server) as client:
        for _ in range(2):
            await client.send(upgrade)
            assert (await client.answer())[0] == 200
            await asyncio.sleep(Quick.grace_seconds + 2 * Quick.check_seconds)
        await client.send(GET + HOST + b"\r\n")
        assert (await client.answer())[0] == 200


async def test_a_closed_connection_leaves_no_timer():
    config = Config(app, log_config=None, lifespan="off")
    config.load()
    protocol = Protocol(config, ServerState(), {})
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: protocol, "127.0.0.1", 0) as listening:
        _, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writer.close()

        async def is_over():
            return protocol.check is not None and protocol.check.cancelled()

        await until(is_over, PATIENCE)


async def test_a_websocket_has_none_of_these_limits(server):
    async with connect(f"ws://127.0.0.1:{server.port}/", proxy=None) as socket:
        for wait in (KEEP_ALIVE + 5 * Quick.check_seconds, 0):
            await socket.send("hello")
            assert await socket.recv() == "hello"
            await asyncio.sleep(wait)


async def test_more_than_the_concurrency_limit_is_told_to_come_again(tmp_path):
    async with serving(tmp_path, QUICK, "--limit-concurrency", "3") as server:
        async with connected(server), connected(server), connected(server) as client:
            await client.send(GET + HOST + b"\r\n")
            status, headers, body = await client.answer()
        assert_problem(status, headers, json.loads(body))
        assert (status, headers["retry-after"]) == (503, "1")
        assert await exchanged(server, GET + CLOSE)


# How it is started.


@pytest.mark.parametrize(
    ("env", "is_bare", "warnings"), [("prod", True, 1), ("prod", False, 0), ("dev", True, 0)]
)
async def test_a_start_without_these_limits_says_so(
    serve, monkeypatch, caplog, env, is_bare, warnings
):
    if is_bare:
        monkeypatch.delitem(sys.modules, "kernel.http.server")
    async with serve(env=env):
        pass
    found = [line for line in caplog.records if "--http kernel.http.server" in line.message]
    assert [line.levelname for line in found] == ["WARNING"] * warnings


def test_without_its_parser_it_says_what_to_install():
    code = "import sys; sys.modules['httptools'] = None; import kernel.http.server"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        3,
        "kernel.http.server needs httptools: install uvicorn[standard]\n",
    )


# At full length: the limits that a service has.


async def asked(server, path=b"/", times=1):
    """The statuses and the seconds of requests on connections of their own."""
    found = []
    for _ in range(times):
        async with connected(server) as client:
            await client.send(b"GET " + path + b" HTTP/1.1\r\n" + CLOSE)
            status, _, _ = await asyncio.wait_for(client.answer(), PATIENCE)
            found.append((status, time.monotonic() - client.opened))
    return found


async def traffic(server, ended):
    """What others meet meanwhile."""
    found = []
    while not ended.is_set():
        found += await asked(server)
        await asyncio.sleep(0.02)
    return found


async def are_slow(server):
    """500 clients that are slow, each closed in time."""
    slow = {
        "half a head": [(GET + HOST + b"X: ", *[b"a"] * 30)] * 200,
        "silent": [()] * 200,
        "a slow body": [(UPLOAD, *[b"a"] * 30)] * 50,
    }
    large = b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n"
    async with AsyncExitStack() as readers:
        waits = [
            asyncio.gather(*(waited_for(server, *pieces, pause=1) for pieces in clients))
            for clients in slow.values()
        ]
        waiting = asyncio.gather(*waits)
        unread = [await readers.enter_async_context(connected(server, limit=1)) for _ in range(50)]
        for reader in unread:
            await reader.send(large)

        async def are_closed():
            return not any(is_held(server, reader) for reader in unread)

        await until(are_closed, 15)
        assert time.monotonic() - unread[-1].opened > Protocol.grace_seconds
        for name, found in zip(slow, await asyncio.wait_for(waiting, 15), strict=True):
            assert {len(statuses) for statuses, _ in found} == {0 if name == "silent" else 1}
            assert min(seconds for _, seconds in found) > 9, name
            assert max(seconds for _, seconds in found) < 15, name


async def test_500_slow_clients_are_closed_and_others_served_meanwhile(tmp_path):
    async with serving(tmp_path, REAL) as server:

        async def measure():
            alone, ended = await asked(server, times=200), asyncio.Event()
            memory = server.memory("VmRSS")
            others = asyncio.create_task(traffic(server, ended))
            await are_slow(server)
            ended.set()
            found = await others
            assert {status for status, _ in found} == {200}
            assert server.memory("VmRSS") - memory < 50 * 1024 * 1024
            return {"GET": [[seconds for _, seconds in each] for each in (alone, found)]}

        await assert_hardly_slower(measure, 2, QUIET)


async def test_silent_clients_do_not_hold_all_files_that_may_be_open(tmp_path):
    async with serving(tmp_path, REAL) as server, AsyncExitStack() as silent:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        for _ in range(100):
            await silent.enter_async_context(connected(server))
        cpu, began = cpu_seconds(server.process), time.monotonic()

        async def is_answered():
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                return [status for status, _ in await asked(server)] == [200]
            return False

        await until(is_answered, 15)
        assert cpu_seconds(server.process) - cpu < 0.5 * (time.monotonic() - began)
