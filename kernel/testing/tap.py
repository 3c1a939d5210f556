"""A proxy between a service and PostgreSQL, which counts round trips."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import parse_qs, urlsplit


class Tap:
    """A proxy on a TCP port; `waits` is how often its clients have waited for the server."""

    # A client waits after these messages: Sync, simple Query, and Flush.
    WAITS = (b"S", b"Q", b"H")

    def __init__(self, url: str) -> None:
        self.waits = 0
        self.url = url
        self.socket = f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        async with await asyncio.start_server(self.accept, "127.0.0.1", 0) as listener:
            host, port = listener.sockets[0].getsockname()
            name = urlsplit(self.url).path
            self.url = f"postgresql://app@{host}:{port}{name}?sslmode=disable"
            yield self

    async def accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_unix_connection(self.socket)
        await asyncio.gather(self.forward(client, to_server), back(server, to_client))

    async def forward(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        # A message is its kind, its length, and the rest (PostgreSQL manual, "Message Formats");
        # the first one has no kind.
        kind = b""
        try:
            while True:
                length = await client.readexactly(4)
                rest = await client.readexactly(struct.unpack("!i", length)[0] - 4)
                self.waits += kind in self.WAITS
                to_server.write(kind + length + rest)
                kind = await client.readexactly(1)
        except asyncio.IncompleteReadError:
            to_server.close()


async def back(server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    while data := await server.read(65_536):
        to_client.write(data)
    to_client.close()
