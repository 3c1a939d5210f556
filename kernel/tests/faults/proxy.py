"""A way to PostgreSQL that fails once, at a moment of a transaction that a test chooses."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from enum import Enum
from typing import Self
from urllib.parse import parse_qs, urlsplit

# Moments: BEGIN is 0, what follows it counts on from 1, and these two stand apart.
COMMIT, OUTSIDE = -1, -2
# SO_LINGER for no time at all: a connection that is closed is reset.
RESET = struct.pack("ii", 1, 0)


class Fault(Enum):
    """What becomes of a message: it is lost, or it is done and its answer is lost or held back."""

    CUT_BEFORE = "cut before"
    CUT_AFTER = "cut after"
    HOLD = "hold"


class Proxy:
    """A TCP port of 127.0.0.1 that leads to the server's unix socket."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        self._path = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"postgresql://app@127.0.0.1:{port}{parts.path}?sslmode=disable"
        self.struck = asyncio.Event()
        self._fault: Fault | None = None
        self._moment, self._skipped = COMMIT, 0
        self.commits = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, sock=self._listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def arm(self, fault: Fault, moment: int = COMMIT, *, skip: int = 0) -> None:
        """Fail once: when the moment comes on any connection, after `skip` times when it passes."""
        self._fault, self._moment, self._skipped = fault, moment, skip
        self.struck.clear()

    def disarm(self) -> None:
        """Fail no more."""
        self._fault = None

    def _accept(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._forward(client, back))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _forward(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        back.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        server, forth = await asyncio.open_unix_connection(self._path)
        answers = asyncio.create_task(_relay(server, back))
        moment = OUTSIDE
        try:
            async for message in _messages(client):
                moment = _moment_of(message, moment)
                self.commits += moment == COMMIT
                if fault := self._due(moment):
                    answers.cancel()  # none is under way: the client had them all before this
                    await asyncio.wait([answers])
                    await self._strike(fault, message, client, server, forth)
                    break
                forth.write(message)
        finally:
            answers.cancel()
            forth.transport.abort()
            back.transport.abort()

    def _due(self, moment: int) -> Fault | None:
        if self._fault is None or moment != self._moment:
            return None
        self._skipped -= 1
        if self._skipped >= 0:
            return None
        # Taken at once, or a neighbour at the same moment would be struck too.
        fault, self._fault = self._fault, None
        return fault

    async def _strike(
        self,
        fault: Fault,
        message: bytes,
        client: asyncio.StreamReader,
        server: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> None:
        if fault is not Fault.CUT_BEFORE:
            forth.write(message)
            await server.read(1)
        self.struck.set()
        if fault is Fault.HOLD:
            with suppress(ConnectionError):
                await client.read()  # until the client is gone


async def _relay(server: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await server.read(65536):
            back.write(data)
    back.close()


async def _messages(client: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The client's messages; the first has a length but no type, unlike those after it."""
    prefix = 0
    with suppress(ConnectionError, asyncio.IncompleteReadError):  # it left, as it may
        while True:
            head = await client.readexactly(prefix + 4)
            length = int.from_bytes(head[prefix:])
            yield head + await client.readexactly(length - 4)
            prefix = 1


def _moment_of(message: bytes, last: int) -> int:
    kind, sql = message[:1], message[5:].upper()
    if kind == b"Q":
        for word, moment in ((b"BEGIN", 0), (b"COMMIT", COMMIT), (b"ROLLBACK", OUTSIDE)):
            if sql.startswith(word):
                return moment
    if last < 0:
        return OUTSIDE
    return last + (kind in (b"P", b"B", b"Q"))  # a statement is parsed when new, and then bound
